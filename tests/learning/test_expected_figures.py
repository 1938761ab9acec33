"""Systems of the atlas that take minutes reach the figures that were expected of them beforehand.

Those that take longer are in docs/data/atlas.json: `make atlas` writes which figures were reached.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.atlas.__main__ import compare_on
from benchmarks.atlas.bands import table_of_bands
from benchmarks.atlas.systems import EXPERIMENTS, read_system
from benchmarks.atlas.verdicts import table_of_methods
from tests.catalogue import reads_data

QUICK = (
    "digits_uncrossed", "fairness", "meta_parameters", "patients", "payload", "payload_measured",
    "robot_failures", "suffix_rules",
)  # fmt: skip
MISSED = {
    "fairness": {"pooled logistic regression (not federated) minus MAML"},
    "payload_measured": {"least squares", "ridge to the mean minus MAML"},
}
"""Figures that come out otherwise; the cards say how."""


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_system_lands_in_its_ranges(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    system = read_system(EXPERIMENTS / f"{name}.toml")
    if reads_data(system.scenario):
        monkeypatch.setenv("FEDMAML_DATA", str(request.getfixturevalue("data_dir")))
    comparison, _ = compare_on(replace(system, null={}), tmp_path)
    rows = table_of_methods(comparison, None, system.figures).rows
    found = table_of_bands(system.bands, rows).rows
    assert len(found) == len(system.bands)
    missed = {row["what"] for row in found.values() if row["reached"] != "reached"}
    assert missed == MISSED.get(name, set())
