"""Fixtures for the engines."""

from collections.abc import Iterator

import pytest

from fedmaml import native


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a C++ compiler."""
    monkeypatch.setenv("FEDMAML_NATIVE", "0")
    native._library.cache_clear()
    yield
    native._library.cache_clear()
