"""The site as built: no warning, no broken link, nothing from the network, nothing internal."""

import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import fedmaml
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (find_spec("sphinx") and find_spec("myst_nb") and find_spec("pydata_sphinx_theme")),
        reason="needs Sphinx, myst-nb and pydata-sphinx-theme: pip install 'fedmaml[docs]'",
    ),
    pytest.mark.timeout(1200),
]

_EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source"}
_HIDDEN = {"script", "style", "head"}


class Page(HTMLParser):
    """What a page links to, what it loads, its anchors and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self._hidden = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("next", "prev", "index", "search"):
            self.loads.append(given.get("href", ""))
        elif tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loads.append(given["src"])
        self._hidden += tag in _HIDDEN

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in _HIDDEN

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as `make docs` does; what is cached of notebooks is used again."""
    target = tmp_path_factory.mktemp("site")
    arguments = ["-W", "-n", "--keep-going", "-q", "-E", "-b", "html", "docs", str(target)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    files = [path for path in site.rglob("*.html") if "_static" not in path.parts]  # templates
    made = {path: Page(path.read_text(encoding="utf-8")) for path in files}
    assert len(made) > 25
    return made


def test_every_link_and_anchor_leads_somewhere(pages: dict[Path, Page], site: Path) -> None:
    def broken(path: Path, page: Page) -> Iterator[str]:
        for link in page.links + page.loads:
            if link.startswith(("http://", "https://", "mailto:", "data:")):
                continue
            file, anchor = urldefrag(link.partition("?")[0] if "#" not in link else link)
            target = (path.parent / unquote(file)).resolve() if file else path
            if target.is_dir():
                target /= "index.html"
            known = pages[target].anchors if target in pages else set()
            if not target.exists() or (anchor and target in pages and unquote(anchor) not in known):
                yield f"{path.relative_to(site)}: {link}"

    assert [one for path, page in pages.items() for one in broken(path, page)] == []


def test_a_page_loads_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert {one for page in pages.values() for one in page.loads if "//" in one} == set()


def test_marks_of_measured_numbers_do_not_show(site: Path, pages: dict[Path, Page]) -> None:
    assert "0.804" in pages[site / "results.html"].text
    for name in ("results.html", "costs.html", "performance.html", "auditing.html"):
        for mark in ("<!--", "source: ", "figure: ", "by hand: "):
            assert mark not in pages[site / name].text, name
        raw = (site / name).read_text(encoding="utf-8")
        assert "<!-- figure:" not in raw
        assert "<!-- source:" not in raw


def test_the_reference_has_all_that_is_public(pages: dict[Path, Page]) -> None:
    known = set().union(*(page.anchors for page in pages.values()))
    for name in fedmaml.__all__:
        one = getattr(fedmaml, name)
        assert f"{one.__module__}.{one.__qualname__}" in known, name
    for catalogue in (STRATEGIES, SCENARIOS):
        for name in catalogue:
            one = catalogue[name]
            assert f"{one.__module__}.{one.__qualname__}" in known, name
    for module in ("core.learner", "core.inner_loop", "core.networks", "core.figures",
                   "core.tasks", "strategies.base", "strategies.parts", "simulations.scenario",
                   "simulations.reference"):  # fmt: skip
        for name, one in vars(sys.modules[f"fedmaml.{module}"]).items():
            own = getattr(one, "__module__", "") == f"fedmaml.{module}"
            if own and inspect.getdoc(one) and not name.startswith("_") and _defined(one):
                assert f"fedmaml.{module}.{name}" in known


def test_displays_of_docstrings_keep_their_lines(site: Path) -> None:
    raw = (site / "api" / "core.html").read_text(encoding="utf-8")
    displays = [
        re.sub(r"<[^>]+>", "", one.partition("</pre>")[0]) for one in raw.split("<pre>")[1:]
    ]
    assert any("phi_0" in one and "phi_{t+1}" in one for one in displays)
    assert "|accuracy - confidence|" in re.sub(r"<[^>]+>", "", raw)


def _defined(one: object) -> bool:
    return isinstance(one, type | types.FunctionType)


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        ("own_arrays", "adapt: the loss of a row falls"),
        ("comparing_fairly", "Significantly better than fine-tuned FedAvg"),
        ("own_algorithm", "finite differences"),
    ],
)
def test_the_gallery_shows_notebooks_as_executed(
    site: Path, pages: dict[Path, Page], notebook: str, said: str
) -> None:
    page = pages[site / "notebooks" / f"{notebook}.html"]
    assert said in page.text
    assert any(image.endswith((".png", ".svg")) for image in page.loads)
    assert "Traceback" not in page.text
