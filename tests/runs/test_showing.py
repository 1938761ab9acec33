"""Progress bars on the terminal and in notebooks."""

import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from fedmaml.runs import showing


class Handle:
    """What IPython's ``display`` returns; keeps what is shown."""

    def __init__(self, shown: list[str]) -> None:
        self.shown = shown

    def update(self, data: dict[str, Any], *, raw: bool) -> None:
        assert raw
        self.shown.append(data["text/plain"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend to be the kernel of a notebook; return what its cell shows."""
    cell: list[str] = []

    def display(data: dict[str, Any], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        cell.append(data["text/plain"])
        return Handle(cell)

    ipython, of_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=None)  # type: ignore[attr-defined]
    of_display.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    monkeypatch.setattr(showing, "_SECONDS", 0.01)
    return cell


def bar(enabled: bool = True) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        console=showing.console_of_progress(),
        disable=showing.in_notebook() or not enabled,
    )


def test_a_notebook_sees_one_line_that_changes(
    notebook: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = bar()
    task = progress.add_task("digits maml", total=3)
    with showing.shown(progress, enabled=True):
        for _ in range(3):
            progress.advance(task)
            time.sleep(0.05)
    assert notebook[0] == "digits maml 0/3"
    assert notebook[-1] == "digits maml 3/3"
    assert any("1/3" in line or "2/3" in line for line in notebook)
    assert capsys.readouterr().err == ""  # no second bar


def test_the_last_state_is_shown_after_an_error(notebook: list[str]) -> None:
    def cut_short() -> None:
        progress = bar()
        task = progress.add_task("a run", total=2)
        with showing.shown(progress, enabled=True):
            progress.advance(task)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert notebook[-1] == "a run 1/2"


def test_elsewhere_it_is_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert not showing.in_notebook()
    progress = bar()
    with showing.shown(progress, enabled=True):
        progress.add_task("a run", total=2)
    assert "a run 0/2" in capsys.readouterr().err


def test_nothing_is_shown_where_nobody_asked(
    notebook: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = bar(enabled=False)
    with showing.shown(progress, enabled=False):
        progress.add_task("a run", total=2)
    assert notebook == []
    assert capsys.readouterr() == ("", "")
