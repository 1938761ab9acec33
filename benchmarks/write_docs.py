"""Write the measured numbers of the pages from the data files of docs/data.

    python -m benchmarks.write_docs [--check]

A page marks what is generated with HTML comments, which a reader of the page does not see:

    <!-- source: digits -->                     command, date, machine, versions of a data file
    <!-- table: digits/crossed -->              one of its tables
    <!-- figure: digits/crossed/FedRep/accuracy/mean as {:.3f} -->       one number in a sentence
    <!-- figure: A over B as {:.0f} -->         a ratio of two; ``A minus B`` is their difference
    <!-- by hand: published by Finn et al. -->  not measured here; stays as it is

Each ends with ``<!-- end -->``. A path is file/table/row/value. Markdown takes a line that begins
with a comment for HTML, so a figure never begins a line. With --check nothing is written, and the
exit code is 1 if a page differs from its data.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.tables import Number, Table, typed

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "data"
MARK = re.compile(
    r"<!-- (?P<kind>source|table|figure|by hand): (?P<what>.+?) -->.*?<!-- end -->", re.DOTALL
)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
_MEASURED_CELL = re.compile(r"[-+*\s]*\d*[.,]\d")
_MEASURED_PROSE = re.compile(
    r"(?<![\w.])[-+]?(0?\.\d{3}\b|\d+([.,]\d+)*(x\b| (us|ms|s|seconds|minutes|[kKMG]i?B)\b))"
)
Data = dict[str, dict[str, Any]]
"""Name of a data file, without suffix -> what it holds (`benchmarks.tables.write`)."""


class DocsError(Exception):
    """A mark of a page names nothing; the text says which, and what to do."""


def read_data(folder: Path = DATA) -> Data:
    """Return all data files."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def pages(root: Path = ROOT) -> list[Path]:
    """Return the pages that hold measured numbers."""
    docs = root / "docs"
    return [root / "README.md", *sorted(docs.glob("*.md")), *sorted(docs.glob("atlas/*.md"))]


def rendered(page: str, data: Data) -> str:
    """Return a page with the text of every mark written anew.

    Raises:
        DocsError: If a mark names nothing in the data.
    """

    def anew(mark: re.Match[str]) -> str:
        kind, what = mark["kind"], mark["what"]
        if kind == "by hand":
            return mark.group()
        try:
            written = _WRITERS[kind](what, data)
        except (KeyError, ValueError, TypeError) as error:
            line = page.count("\n", 0, mark.start()) + 1
            raise DocsError(
                f"line {line}: <!-- {kind}: {what} -->: {type(error).__name__}: {error}. Correct "
                "the mark, or write docs/data anew: run the benchmark with --json."
            ) from error
        around = "" if kind == "figure" else "\n"
        return f"<!-- {kind}: {what} -->{around}{written}{around}<!-- end -->"

    return MARK.sub(anew, page)


def unmarked(page: str) -> Iterator[str]:
    """Yield ``line N: text`` for what looks measured and stands outside every mark.

    In a table: a cell that begins with a number with a decimal point or a thousands comma. In
    prose: a number of three decimals without anything before the point, or a number with a unit of
    time or bytes or with "x" for times. Code and links are left out. Whole numbers alone, and what
    is said in words, look like settings and are not found.
    """
    bare = _CODE.sub(_lines_of, MARK.sub(_lines_of, page))
    for number, line in enumerate(bare.splitlines(), 1):
        if line.startswith("|"):
            found = any(_MEASURED_CELL.match(cell) for cell in line.split("|"))
        else:
            found = bool(_MEASURED_PROSE.search(line))
        if found:
            yield f"line {number}: {line.strip()}"


def _lines_of(text: re.Match[str]) -> str:
    """Keep the number of lines, and a space, which no number or name reaches across."""
    return " " + "\n" * text.group().count("\n")


def _source(name: str, data: Data) -> str:
    content = data[name]
    measured = content["measured"]
    how = "copied from the page of" if content["transcribed"] else "measured on"
    commit = f" at commit {measured['commit']}" if measured["commit"] else ""
    versions = ", ".join(" ".join(pair) for pair in measured["versions"].items())
    return (
        f"`{content['command']}`\n"
        f"({how} {measured['date']}{commit}; {measured['machine']}; {versions})"
    )


def _table(path: str, data: Data) -> str:
    file, _, name = path.partition("/")
    table = data[file]["tables"][name]
    return Table(table["columns"], table["rows"]).markdown()


def _figure(what: str, data: Data) -> str:
    paths, _, template = what.partition(" as ")
    first, *rest = re.split(r" (over|minus) ", paths)
    value = _value(first, data)
    if rest:
        operation, second = rest
        other = _value(second, data)
        value = Number(value / other if operation == "over" else value - other)
    return (template or "{}").format(value)


def _value(path: str, data: Data) -> Any:
    file, table, row, *below = path.split("/")
    value = data[file]["tables"][table]["rows"][row]
    for key in below:
        value = value[int(key)] if isinstance(value, list) else value[key]
    if value is None or isinstance(value, dict):
        raise ValueError("not a value")
    return typed(value)


_WRITERS = {"source": _source, "table": _table, "figure": _figure}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    check = parser.parse_args().check
    data, differing = read_data(), []
    for page in pages():
        before = page.read_text()
        after = rendered(before, data)
        if after != before:
            differing.append(page.relative_to(ROOT))
            if not check:
                page.write_text(after)
    for name in differing:
        print(f"{'differs' if check else 'written'}: {name}")
    sys.exit(bool(check and differing))


if __name__ == "__main__":
    main()
