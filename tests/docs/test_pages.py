"""The pages as a forge shows them: every link and anchor leads somewhere, every page is listed."""

import ast
import json
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = ROOT / "docs"
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*OUTSIDE, *sorted(DOCS.glob("*.md")), *sorted((DOCS / "api").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
_CODE = re.compile(r"^(```+).*?^\1\s*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def slug(heading: str) -> str:
    """Return the anchor that a forge, and MyST, give a heading."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    text = re.sub(r"^(```+).*?^\1\s*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)}


def broken(page: Path, text: str) -> list[str]:
    """Return the links of a page, read as ``text``, that lead nowhere."""
    found = []
    for link in _LINK.findall(_CODE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_a_broken_link_is_found() -> None:
    page = DOCS / "index.md"
    text = "[a](none.md) [b](glossary.md) [c](costs.md#none) [d](costs.md#counters) [e](#none)"
    assert broken(page, text) == ["none.md", "costs.md#none", "#none"]


def test_every_extra_is_listed_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (DOCS / "dependencies.md").read_text().partition("## Extras")[2]
    cells = re.findall(r"^\| (`.*?) \|", extras, re.MULTILINE)
    listed = [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]
    assert sorted(listed) == sorted(project["optional-dependencies"])


def test_every_page_is_reached_from_the_first() -> None:
    reached, new = set(), {DOCS / "index.md"}
    while new:
        page = new.pop()
        reached.add(page)
        links = (link.partition("#")[0] for link in _LINK.findall(page.read_text()))
        linked = {(page.parent / link).resolve() for link in links if link.endswith(".md")}
        new |= {one for one in linked if DOCS in one.parents} - reached
    assert {page.name for page in PAGES[len(OUTSIDE) :]} <= {page.name for page in reached}


def test_every_option_that_the_tutorial_uses_exists() -> None:
    """Its commands are parsed, not run: a renamed option or command fails here."""
    import shlex

    import typer.main

    from fedmaml.cli import app

    group = typer.main.get_command(app)
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / "tutorial.md").read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    given = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fedmaml ")]
    assert {command for command, *_ in given} >= {
        "check", "run", "compare", "report", "adapt", "predict",
    }  # fmt: skip
    for command, *arguments in given:
        group.commands[command].make_context(command, arguments)  # type: ignore[attr-defined]


def test_python_of_the_pages_can_be_parsed() -> None:
    for page in (DOCS / "tutorial.md", DOCS / "flower-app.md"):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            ast.parse(block)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs_and_are_listed(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert f"](../examples/{notebook.name})" in (DOCS / "gallery.md").read_text()


def test_dev_brings_what_builds_the_site() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dev = project["optional-dependencies"]["dev"]
    own = next(one for one in dev if one.startswith("fedmaml["))
    assert "docs" in own.partition("[")[2].strip("]").split(",")
