"""What a user is told who would wait without a word."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS = 2.0


@contextmanager
def told_if_slow(doing: str, wanted: bool = True) -> Iterator[None]:
    """Say on standard error what is done, if it takes longer than two seconds.

    Args:
        doing: In words, e.g. "reading the data".
        wanted: Whether to say anything.
    """
    words = threading.Timer(_SECONDS, lambda: print(f"{doing} ...", file=sys.stderr, flush=True))
    words.daemon = True
    if wanted:
        words.start()
    try:
        yield
    finally:
        words.cancel()
