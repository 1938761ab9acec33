"""Strategies and scenarios that are files of their own, in the catalogues during a test."""

import pytest

from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES
from tests.outside.catalogue import OUTSIDE, OUTSIDE_SCENARIOS


@pytest.fixture(autouse=True)
def catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, further in (
        (STRATEGIES, OUTSIDE),
        (SCENARIOS, OUTSIDE_SCENARIOS),
    ):
        for name, value in further.items():
            monkeypatch.setitem(known, name, value)
