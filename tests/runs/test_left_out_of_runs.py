"""Files that are no clients: a run ends without them, and its log, summary and page name them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fedmaml import running
from fedmaml.config import resolve
from fedmaml.core.errors import RunDirectoryError
from fedmaml.report import write_report
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.left_out import counted, in_words
from fedmaml.tables.runs import run_table
from tests.tables import HEADER, write_sites

pytest.importorskip("pandas")

ENTRY = {
    "count": 3,
    "reasons": {"no rows": 1, "fewer than 4 rows": 1, "one class alone": 1},
    "clients": ["a_empty", "b_single", "c_one_class"],
}
WORDS = (
    "3 clients: no rows (1), fewer than 4 rows (1), one class alone (1); "
    "a_empty, b_single, c_one_class"
)


def sites_of(folder: Path) -> Path:
    """Write twelve files that are clients, and three that are none."""
    sites, header = write_sites(folder), ",".join(HEADER) + "\n"
    (sites / "a_empty.csv").write_text("")
    (sites / "b_single.csv").write_text(header + "60,m,I,ill,3\n")
    (sites / "c_one_class.csv").write_text(header + "60,m,I,ill,3\n61,f,II,ill,4\n" * 5)
    return sites


def run_on(sites: Path, out: Path) -> dict[str, Any]:
    given = {"scenario": "csv", "strategy": "fomaml", "rounds": 2, "clients": 3}
    data = {"task.data": str(sites / "*.csv"), "task.target": "y", "task.ignore": ["days"]}
    return execute(resolve(given, data), out)


def test_a_run_names_and_counts_them_in_log_summary_table_and_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    running._say_once.cache_clear()
    sites = sites_of(tmp_path / "sites")
    with caplog.at_level(logging.WARNING, logger="fedmaml"):
        summary = run_on(sites, tmp_path / "run")
        run_on(sites, tmp_path / "again")  # as in a comparison: it is said once
    assert [text for text in caplog.messages if "left out" in text] == [
        f"left out {WORDS} (12 take part)"
    ]
    assert summary["left_out"] == ENTRY
    assert RunDirectory(tmp_path / "run").summary()["left_out"] == ENTRY
    assert summary["clients_train"] == 7
    run_table([summary])
    assert f"fomaml: left out {WORDS}" in " ".join(capsys.readouterr().out.split())
    page = write_report([tmp_path / "run"], tmp_path / "page.html").page.read_text()
    assert f"<dt>Left out</dt><dd>{WORDS}</dd>" in page


def test_a_run_without_such_clients_says_nothing_of_them(tmp_path: Path) -> None:
    sites = write_sites(tmp_path / "sites")
    assert "left_out" not in run_on(sites, tmp_path / "run")
    assert not (tmp_path / "run" / "left_out.json").exists()
    page = write_report([tmp_path / "run"], tmp_path / "page.html").page.read_text()
    assert "Left out" not in page


def test_the_same_theta_is_learned_as_without_the_files(tmp_path: Path) -> None:
    plain = run_on(write_sites(tmp_path / "plain"), tmp_path / "first")
    some = run_on(sites_of(tmp_path / "sites"), tmp_path / "second")
    assert some["theta_sha256"] == plain["theta_sha256"]


def test_at_most_twenty_are_kept_and_three_are_said() -> None:
    entry = counted({f"c{number:02}": "no rows" for number in range(30)} | {"z": "one class alone"})
    assert entry["clients"] == [f"c{number:02}" for number in range(20)]
    assert in_words(entry) == (
        "31 clients: no rows (30), one class alone (1); c00, c01, c02 and 28 others"
    )
    assert in_words(counted({"a": "no rows"})) == "1 client: no rows (1); a"
    assert counted({}) == {}


def test_a_damaged_file_of_them_is_named(tmp_path: Path) -> None:
    path = tmp_path / "left_out.json"
    for text in ("{}", json.dumps(ENTRY)[:-3], json.dumps(ENTRY | {"count": "three"})):
        path.write_text(text)
        with pytest.raises(RunDirectoryError, match=r"left_out.json in .* is damaged"):
            RunDirectory(tmp_path).left_out()
