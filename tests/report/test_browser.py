"""The report in a real browser: headless Chromium, driven through its own driver."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmaml.report import Written
from tests.browser import WIDTHS, addresses, needs_browser, opened, set_width

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(tmp_path_factory.mktemp("profile")) as window:
        yield window


def open_page(browser: Any, page: Path, width: int) -> list[str]:
    """Open a page in a window of this many pixels; return the addresses that it asks for."""
    set_width(browser, width)
    addresses(browser)  # forget what was before
    browser.get(page.absolute().as_uri())
    return addresses(browser)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_request_leaves_the_page_and_the_console_stays_empty(
    browser: Any, written: Written, width: int
) -> None:
    asked = open_page(browser, written.page, width)
    assert written.page.absolute().as_uri() in asked  # the log works
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert browser.get_log("browser") == []


def test_this_test_would_see_a_request_and_an_error(browser: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='missing.png'><script>undefined_function()</script>")
    asked = open_page(browser, bad, 390)
    assert (tmp_path / "missing.png").as_uri() in asked
    assert {entry["level"] for entry in browser.get_log("browser")} == {"SEVERE"}


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_visible_and_its_letters_are_large_enough(
    browser: Any, written: Written, width: int
) -> None:
    open_page(browser, written.page, width)
    boxes = browser.execute_script(
        """return [...document.querySelectorAll("figure svg")].map(svg => {
             const box = svg.getBoundingClientRect(), marks = svg.querySelectorAll("path, use");
             const letters = [...svg.querySelectorAll("text")].filter(text => text.textContent);
             return {width: box.width, height: box.height, left: box.left, right: box.right,
                     seen: svg.checkVisibility(), marks: marks.length,
                     letters: Math.min(...letters.map(text => text.getBoundingClientRect().height))}
           })"""
    )
    assert len(boxes) == len(written.figures) / 2
    for box in boxes:
        assert box["seen"]
        assert box["marks"] > 10
        assert box["width"] > 250
        assert box["height"] > 100
        assert 0 <= box["left"] < box["right"] <= width
        assert box["letters"] >= 11  # height of a line; letters of 9.5 pixels


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_does_not_scroll_sideways(browser: Any, written: Written, width: int) -> None:
    open_page(browser, written.page, width)
    for unfolded in (False, True):
        browser.execute_script(
            "document.querySelectorAll('details').forEach(one => one.open = arguments[0])", unfolded
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = browser.execute_script(
        """return [...document.querySelectorAll("p, li, dd, h1, h2, .table, pre, figure")].filter(
             one => one.getBoundingClientRect().right > innerWidth).map(one => one.outerHTML)"""
    )
    assert outside == []


def test_on_a_phone_the_headline_table_needs_no_scrolling(browser: Any, written: Written) -> None:
    open_page(browser, written.page, 390)
    table, cells, scrolled = browser.execute_script(
        """const table = document.querySelector(".restacks");
           const cells = [...table.querySelectorAll("tbody td, tbody th")].filter(
             one => one.textContent);
           return [table.scrollWidth, cells.map(one => one.getBoundingClientRect().right),
                   document.querySelectorAll(".scrolls").length]"""
    )
    assert table <= 390
    assert len(cells) > 15
    assert max(cells) <= 390
    assert scrolled > 0


def test_a_printed_report_has_at_most_five_pages(browser: Any, written: Written) -> None:
    open_page(browser, written.page, 1280)
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", paper)["data"])
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", printed))
    assert 1 < pages <= 5


def test_the_page_is_dark_where_the_reader_wants_it_and_paper_is_white(
    browser: Any, written: Written
) -> None:
    colours = {}
    for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        emulated = {"media": media, "features": features}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
        open_page(browser, written.page, 1280)
        colours[media, scheme] = browser.execute_script(
            """const of = (one, what) => getComputedStyle(document.querySelector(one))[what];
               return [of("body", "backgroundColor"), of("body", "color"),
                       of("figure svg text", "fill"), of("figure svg path", "fill")]"""
        )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    white, black = "rgb(255, 255, 255)", "rgb(28, 28, 28)"
    assert colours["screen", "light"] == [white, black, black, white]
    assert colours["print", "dark"] == [white, black, black, white]
    paper, ink, letters, behind = colours["screen", "dark"]
    assert paper == behind == "rgb(22, 23, 24)"
    assert ink == letters == "rgb(236, 236, 234)"
