"""Who computed, as a node says it in its reply."""

import json

import pytest

from fedmaml.messages.train import MAX_ENGINE_TEXT, _engines_text, _read_engines


@pytest.mark.parametrize("engines", [{}, {"vmap": 5}, {"vmap": 3, "loop": 2}])
def test_what_is_written_is_read(engines: dict[str, int]) -> None:
    assert _read_engines(_engines_text(engines), sum(engines.values())) == engines


def test_one_engine_costs_no_more_bytes_than_its_name() -> None:
    assert _engines_text({"vmap": 100_000}) == "vmap"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"vmap": 3, "loop": 3}),  # of six clients, and there are five
        json.dumps({"vmap": 7, "loop": -2}),
        json.dumps({"vmap": "many"}),
        json.dumps({"vmap": [5]}),
        '{"vmap": 1e999}',
        '{"vmap": NaN}',
        "{",
        "{}",
        '{"a":' * 100_000,
        "",
    ],
)
def test_what_makes_no_sense_is_as_if_nothing_were_said(text: str) -> None:
    assert _read_engines(text, 5) == {}


def test_a_long_name_is_cut() -> None:
    assert _read_engines("x" * 1000, 5) == {"x" * MAX_ENGINE_TEXT: 5}
