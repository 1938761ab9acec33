"""Nobody waits without a word, and nobody who does not wait gets one."""

import time

import pytest

from fedmaml.core import patience


def test_what_takes_long_is_said_and_only_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "_SECONDS", 0.01)
    with patience.told_if_slow("reading the data"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "reading the data ...\n"
    with patience.told_if_slow("reading the data", wanted=False):
        time.sleep(0.1)
    monkeypatch.setattr(patience, "_SECONDS", 60)
    with pytest.raises(ValueError, match="x"), patience.told_if_slow("reading the data"):
        raise ValueError("x")
    assert capsys.readouterr().err == ""
