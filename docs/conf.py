"""The site: these pages, the API reference from docstrings, and the notebooks as executed.

    make docs        warnings are errors, nothing is fetched; docs/_build/html/index.html

The pages are read on a forge as well, so they are plain Markdown. What the site needs beyond that
is made here: tables of contents from lists of links, displays in docstrings, the gallery.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "fedmaml"
author = "the fedmaml authors"
project_copyright = ""
version = release = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]  # type: ignore[index]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "data"]
nitpicky = True
# Types of other packages have no page here, and docstrings name commands as they name objects.
_INTERNAL = (
    r"adapting\.model|api\.naming|comparison|computing|core\.(compression|records|requests)|"
    r"server\.(?!flower_strategy)\w+|simulations\.(arrays|datasets|systems|references)"
)
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    ("py:.*", r"(?!fedmaml\b).*"),
    ("py:.*", rf"fedmaml\.({_INTERNAL})\..*"),  # parts that are not public
    ("py:.*", r"fedmaml\..*\.[A-Z]"),  # type variables
]
default_role = "py:obj"

myst_heading_anchors = 3
myst_enable_extensions: list[str] = []

nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # else pages fetch scripts

autodoc_default_options = {"member-order": "bysource"}
add_module_names = False
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # else the fields of a named tuple stand there twice
napoleon_use_rtype = False
napoleon_attr_annotations = False  # types stand in the signature

html_theme = "pydata_sphinx_theme"
html_title = "fedmaml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "footer_start": [],
    "footer_end": [],
    "use_edit_page_button": False,
}

_LINK = re.compile(r"^- .*?\[(?P<title>[^]]+)\]\((?P<page>[\w./-]+)\)", re.MULTILINE)
_LISTS = {"index", "atlas", "howtos", "explanations", "reference", "gallery"}
"""Pages whose lists of links are tables of contents."""


def _each_module(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Write out ``automodule:: package.*``: every file that is not named on the page itself."""

    def written(line: re.Match[str]) -> str:
        package = line["package"]
        files = sorted((ROOT / package.replace(".", "/")).glob("[!_]*.py"))
        names = [f"{package}.{file.stem}" for file in files if file.stem != "prelude"]
        return "".join(
            f".. automodule:: {name}\n{line['options']}"
            for name in names
            if f":: {name}\n" not in source[0]
        )

    line = r"\.\. automodule:: (?P<package>[\w.]+)\.\*\n(?P<options>(?: +:.*\n)*)"
    source[0] = re.sub(line, written, source[0])


def _with_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Append a table of contents to a page of links; notebooks are below the gallery here."""
    if page not in _LISTS:
        return
    text = re.sub(r"\]\(\.\./examples/(\w+\.ipynb)\)", r"](notebooks/\1)", source[0])
    pages = [link["page"] for link in _LINK.finditer(text) if (DOCS / link["page"]).is_file()]
    source[0] = "\n".join([text, "", "```{toctree}", ":hidden:", "", *pages, "```", ""])


def _tidied(_app: Sphinx, doctree: nodes.document) -> None:
    """Remove the marks of `benchmarks.write_docs`, and links to folders, which the site has not."""
    for node in list(doctree.findall(nodes.raw)):
        if re.fullmatch(r"\s*<!--.*?-->\s*", node.astext(), re.DOTALL):
            node.parent.remove(node)
    for node in list(doctree.findall(pending_xref)):
        if node.get("reftype") == "myst" and (DOCS / node["reftarget"]).is_dir():
            node.replace_self(node.children)


_BAR = re.compile(r"(``.*?``)|\|")


def displayed(lines: list[str]) -> list[str]:
    """Return a docstring whose indented displays are literal blocks, and whose bars are bars.

    A display is what follows a blank line and is indented deeper than the line before, as in
    Markdown; lists and the sections of Google's style are not.
    """
    made: list[str] = []
    above, inside = 0, False
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            made.append(line)
            continue
        if inside and indent <= above:
            inside = False
        if not inside:
            blank = number > 0 and not lines[number - 1].strip()
            if blank and indent > above:
                made += [" " * above + "::", ""]
                inside = True
            else:
                above = indent
        made.append(line if inside else _BAR.sub(lambda bar: bar[1] or r"\|", line))
    return made


def _skipped(_app: Sphinx, _what: str, _name: str, one: Any, skip: bool, _options: Any) -> bool:
    """Leave out the fields of named tuples, which their class describes."""
    return skip or type(one).__name__ == "_tuplegetter"


def _docstring(
    _app: Sphinx, what: str, _name: str, _one: Any, _options: Any, lines: list[str]
) -> None:
    lines[:] = displayed(lines)
    if lines and what in ("attribute", "data", "property"):
        lines[0] = f": {lines[0]}"  # else what is before a colon is taken for a type


def _signature(*event: Any) -> tuple[str, str] | None:
    """Write defaults that a function makes so that the signature is Python."""
    signature, returned = event[-2:]
    return (signature.replace("<factory>", "..."), returned) if signature else None


def _copy_notebooks(_app: Sphinx, _config: Any) -> None:
    """Put the notebooks where Sphinx finds them; one that did not change is not executed again."""
    folder = DOCS / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in sorted((ROOT / "examples").glob("*.ipynb")):
        text = file.read_text(encoding="utf-8")
        json.loads(text)
        (folder / file.name).write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect what is made here."""
    app.connect("config-inited", _copy_notebooks)
    app.connect("source-read", _each_module)
    app.connect("source-read", _with_contents)
    app.connect("doctree-read", _tidied)
    app.connect("autodoc-skip-member", _skipped)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon
