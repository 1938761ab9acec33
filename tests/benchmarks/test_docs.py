"""Measured numbers in the pages are those of docs/data, and none stands beside them."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables import Table, estimate, write
from benchmarks.write_docs import (
    MARK,
    DocsError,
    pages,
    read_data,
    rendered,
    unmarked,
)

PAGES = pages()
DATA = read_data()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_hold_the_numbers_of_the_data_files(page: Path) -> None:
    text = page.read_text()
    assert rendered(text, DATA) == text, "run `python -m benchmarks.write_docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_measured_is_written_by_hand(page: Path) -> None:
    advice = "mark it (see benchmarks/write_docs.py), or say it without the number"
    assert list(unmarked(page.read_text())) == [], advice


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_marks_are_closed_and_figures_do_not_begin_a_line(page: Path) -> None:
    text = page.read_text()
    assert text.count("<!-- end -->") == text.count("<!--") / 2 == len(MARK.findall(text))
    assert not re.search(r"^\s*([-*] |\d+\. )?<!-- (figure|by hand): ", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_stands_above_the_table(page: Path) -> None:
    text = page.read_text()
    for mark in re.finditer(r"<!-- table: ([^/]+)/", text):
        assert f"<!-- source: {mark[1]} -->" in text[: mark.start()], mark.group()


def test_every_data_file_is_shown_and_its_command_exists() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for name, content in DATA.items():
        assert re.search(rf"<!-- (table|figure): (\S.* )?{name}/", text), name
        if module := re.match(r"python -m (\S+)", content["command"]):
            assert importlib.util.find_spec(module[1]), content["command"]


# --- these tests can fail -------------------------------------------------------------------------

ROWS: dict[str, dict[str, Any]] = {
    "A": {
        "score": {"mean": 0.5, "low": 0.25, "high": 0.75},
        "seconds": 1234.5,
        "each": [0.5, 10.5],
    },
    "B": {"score": {"mean": 1.0}, "seconds": None, "each": [-0.25]},
}
COLUMNS = {
    "method": ["{name}"],
    "score": estimate("score", ".2f"),
    "seconds": ["{seconds:~2}"],
    "each": ["{each:.2f}"],
}
TEXT = """| method | score | seconds | each |
| --- | --- | --- | --- |
| A | 0.50 (0.25 .. 0.75) | 1,234 | .50 10.50 |
| B | 1.00 |  | -.25 |"""


@pytest.fixture
def example(tmp_path: Path) -> dict[str, dict[str, Any]]:
    write(tmp_path / "example.json", {"table": Table(COLUMNS, ROWS)})
    return read_data(tmp_path)


def test_a_file_holds_the_table_that_was_printed(example: dict[str, dict[str, Any]]) -> None:
    kept = example["example"]["tables"]["table"]
    assert (
        Table(kept["columns"], kept["rows"]).markdown() == Table(COLUMNS, ROWS).markdown() == TEXT
    )


def test_a_file_says_who_measured_what_where(example: dict[str, dict[str, Any]]) -> None:
    measured = example["example"]["measured"]
    assert set(measured) == {"date", "commit", "machine", "versions"}
    assert {"python", "torch", "flwr"} <= set(measured["versions"])
    assert not example["example"]["transcribed"]


def test_a_stale_page_is_written_anew(example: dict[str, dict[str, Any]]) -> None:
    page = (
        "Text stays.\n\n<!-- table: example/table -->\n| old |\n<!-- end -->\n\n"
        "A is <!-- figure: example/table/A/score/mean as {:.2f} -->0.49<!-- end -->, "
        "a <!-- figure: example/table/A/score/mean over example/table/B/score/mean -->?<!-- end -->"
        " of B, less <!-- figure: example/table/B/score/mean minus example/table/A/score/low as "
        "{:+.2f} --><!-- end -->; <!-- by hand: published -->0.3<!-- end -->.\n"
    )
    written = rendered(page, example)
    assert written != page
    assert rendered(written, example) == written
    assert f"-->\n{TEXT}\n<!--" in written
    assert re.sub("<!--.*?-->", "", written).endswith("A is 0.50, a 0.5 of B, less +0.75; 0.3.\n")


@pytest.mark.parametrize(
    "mark",
    ["table: other/table", "figure: example/table/C/seconds", "figure: example/table/B/seconds"],
)
def test_a_mark_that_names_nothing_is_an_error(
    mark: str, example: dict[str, dict[str, Any]]
) -> None:
    with pytest.raises(DocsError, match=f"line 2: <!-- {mark} -->"):
        rendered(f"\n<!-- {mark} --><!-- end -->", example)


@pytest.mark.parametrize(
    "text",
    ["| A | 0.50 |", "| 1,234 |", "took 3 ms", "it is .804 here", "2.5x as fast", "| **.5** |"],
)
def test_measured_numbers_outside_marks_are_found(text: str) -> None:
    assert list(unmarked(f"# Title\n\n{text}\n")) == [f"line 3: {text}"]


@pytest.mark.parametrize(
    "text",
    ["Python 3.11", "`lr = 0.001 s`", "| 4 bytes | 12 |", "```\n| 0.5 | 3 ms\n```", "a 3x3 window"],
)
def test_settings_and_code_are_not_taken_for_measurements(text: str) -> None:
    assert list(unmarked(text)) == []
