"""The page in a real browser while a run goes on, wide and narrow."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmaml.watching.snapshot import Federation, Watch
from tests.browser import WIDTHS, addresses, needs_browser, opened, set_width
from tests.watching.serving import copied, served
from tests.watching.test_watching import record

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(tmp_path_factory.mktemp("profile")) as window:
        yield window


def wait(there: Callable[[], bool], seconds: float = 15.0) -> float:
    began = time.monotonic()
    while not there():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_follows_a_run(browser: Any, run: Path, tmp_path: Path, width: int) -> None:
    folder = copied(run, tmp_path / "run", 2)
    (folder / ".command.json").write_text(json.dumps({"pid": 1}))
    set_width(browser, width)
    addresses(browser)  # forget what was before
    browser.get_log("browser")
    federation = Federation(("north", "south"), ("north",))

    def text(selector: str) -> str:
        return str(browser.find_element("css selector", selector).text)

    with served(Watch(folder, lambda: federation)) as address:
        browser.get(address)
        wait(lambda: text("#round") == "2 of 4")
        late = {
            "reason": "NO_REPLY",
            "detail": "no answer <b>",
            "node": "7",
            "clients": [1],
        }
        with (folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(record(3, [late])) + "\n")
        assert wait(lambda: text("#round") == "3 of 4") < 2.0
        assert text("#phase") == "training"
        assert "left out" in text("#sites")
        assert "no answer <b>" in text("#sites")
        assert text("#loss").startswith("1 → 0.5")
        lines = browser.find_elements("css selector", "#loss-curve polyline")
        assert [len(line.get_attribute("points").split()) for line in lines] == [3, 3]
        overflow = browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow == 0
        asked = [url for url in addresses(browser) if not url.startswith("data:")]
        assert asked
        assert all(url.startswith(address) for url in asked)
        (folder / "error.txt").write_text("QuorumError: too few sites\n")
        wait(lambda: text("#phase") == "failed")
        assert text("#why") == "too few sites"
    wait(lambda: browser.find_element("css selector", "#lost").is_displayed())
    severe = [entry for entry in browser.get_log("browser") if "ERR_" not in entry["message"]]
    assert not severe  # what cannot be reached is that the page is no longer served
