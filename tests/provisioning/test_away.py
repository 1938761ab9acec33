"""Real sites that are away when a run begins."""

import json
from pathlib import Path

import pytest

from fedmaml.provisioning.keys import make_node_key, public_path
from fedmaml.provisioning.roster import FILE, Roster, write_roster
from fedmaml.server.admission import APPROVED
from tests.sites.federation import SMALL, new_site
from tests.sites.test_worker import run_at, serving


def test_a_run_begins_without_sites_that_are_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a roster as `site approve` writes it, with keys as `site init` makes them."""
    files = [new_site(tmp_path / f"s{i}", i, 3, key=True) for i in range(3)]
    keys = {}
    for number, file in enumerate(files):
        make_node_key(file.parent / "node.key", f"site-{number}")
        text = public_path(file.parent / "node.key").read_text()
        keys[f"site-{number}"] = " ".join(text.split()[:2])
    write_roster(tmp_path, Roster(keys, {}))
    monkeypatch.setenv(APPROVED, str(tmp_path / FILE))
    monkeypatch.setenv("FEDMAML_RUNS", str(tmp_path / "runs"))
    with serving(files[0]), serving(files[1]):
        run_at(files[:2], SMALL | {"timeout": 20.0, "nodes": 1}, "two")
    lines = (tmp_path / "runs" / "two" / "rounds.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert {event["node"] for event in first["events"]} == {"site-0", "site-1"}
    assert first["rejected"] == []
