"""What is kept of the first characters: from summaries, by hand."""

from typing import Any

import pytest

from benchmarks.forgetting import row_of


def summary(final: float, then: float, now: float) -> dict[str, Any]:
    halves = {"name": "halves/first", "after": now, "at_shots": {"75": {"mean": then}}}
    return {"metric": {"after": final}, "metrics": [halves]}


def test_a_row_is_the_mean_over_seeds() -> None:
    assert row_of([summary(0.5, 0.8, 0.4), summary(0.7, 0.6, 0.3)]) == pytest.approx(
        {"final": 0.6, "then": 0.7, "now": 0.35, "forgotten": 0.35, "share": 0.5}
    )


def test_who_knew_nothing_forgets_nothing() -> None:
    assert row_of([summary(0.1, 0.0, 0.0)])["share"] == 0.0
