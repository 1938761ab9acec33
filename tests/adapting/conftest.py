"""Two runs on tables, a thirteenth site, and how it is read."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fedmaml as fm
from tests.tables import rows_of, write, write_sites

pandas = pytest.importorskip("pandas")

KINDS = {"classification": ("y", ("days",)), "regression": ("days", ("y",))}


class Runs(NamedTuple):
    """Runs of both kinds, and a new site.

    Attributes:
        folder: Holds one run for each of `KINDS`.
        new: The file of a site that is in no run.
        sites: Folder of the twelve files of the runs.
    """

    folder: Path
    new: Path
    sites: Path

    def site(self, kind: str) -> tuple[Any, Any]:
        """Return the new site's frame and its target."""
        frame = pandas.read_csv(self.new)
        return frame, frame[KINDS[kind][0]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("adapting")
    sites = write_sites(folder / "sites")
    for kind, (target, ignored) in KINDS.items():
        scenario = fm.Csv(data=str(sites / "*.csv"), target=target, ignore=ignored)
        fm.run(scenario, "maml", rounds=30, out=folder / kind)
    new = folder / "new.csv"
    write(new, rows_of(np.random.default_rng(99), 60))
    return Runs(folder, new, sites)
