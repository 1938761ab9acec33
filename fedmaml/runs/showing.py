"""Shows things where people look: a bar on the terminal, or as one line of a notebook's cell.

rich draws in notebooks by ipywidgets alone, which few have installed; so there its bar is drawn as
text, which IPython replaces in place.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress

_WIDTH = 100  # characters of a line in a notebook
_SECONDS = 0.5


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def show_figures() -> None:
    """Let a notebook show figures of matplotlib as pictures, without ``%matplotlib inline``."""
    if in_notebook():
        shell = importlib.import_module("IPython").get_ipython()
        importlib.import_module("IPython.core.pylabtools").select_figure_formats(shell, {"png"})


def console_of_progress() -> Console:
    """Return the console of a progress bar: standard error, never the widgets of a notebook."""
    return Console(stderr=True, force_jupyter=False)


@contextmanager
def shown(progress: Progress, *, enabled: bool) -> Iterator[None]:
    """Show a progress bar for as long as the context lasts.

    Args:
        progress: Made with ``disable=in_notebook() or not enabled``.
        enabled: Whether to show anything.
    """
    if not (enabled and in_notebook()):
        with progress:
            yield
        return
    ipython = importlib.import_module("IPython.display")  # there is one, as this is its kernel
    handle = ipython.display(_text(progress), raw=True, display_id=True)
    done = threading.Event()

    def update() -> None:
        handle.update(_text(progress), raw=True)

    thread = threading.Thread(target=_repeated, args=(update, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        update()


def _repeated(update: Callable[[], None], done: threading.Event) -> None:
    while not done.wait(_SECONDS):
        update()


def _text(progress: Progress) -> dict[str, Any]:
    """Return what the bar looks like now."""
    console = Console(width=_WIDTH, force_jupyter=False, force_terminal=False)
    with console.capture() as captured:
        console.print(progress.get_renderable())
    return {"text/plain": captured.get().rstrip()}
