"""What examples cost is counted from a client's own data, and adds up."""

import math
from typing import Any

import pytest
import torch

from fedmaml.core.counters import Counter, Units, add_counted, count_units
from fedmaml.core.errors import ConfigurationError, UnsupportedProblemError
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.networks import LinearModel
from fedmaml.core.tasks import Batch, Task

TASK = Task(
    Batch(torch.tensor([[3.0], [5.0]]), torch.tensor([[1], [0]])),
    Batch(torch.tensor([[7.0]]), torch.tensor([[1]])),
)


def counter(function: Any, name: str = "steps") -> Counter:
    return Counter(name, "steps of the environment", function)


def test_support_and_query_are_counted_apart_from_their_own_values() -> None:
    """Episodes last as long as x says, 3 + 5 and 7 steps; y says which were measured."""
    counters = (counter(lambda x, _y: x.sum()), counter(lambda _x, y: int(y.sum()), "measurements"))
    assert count_units(counters, TASK) == {"steps": Units(8, 7), "measurements": Units(1, 1)}
    assert count_units((), TASK) == {}


def test_examples_that_are_trees_are_counted_by_their_entries() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    batch = Batch({"series": torch.zeros(2, 3), "measured": mask}, torch.zeros(2))
    counters = (counter(lambda x, _y: x["measured"].sum(), "measurements"),)
    assert count_units(counters, Task(batch, batch)) == {"measurements": Units(3, 3)}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1, "returned -1; its function must return a whole number from 0 to 2\\^62"),
        (2.5, "returned 2.5; "),
        (torch.tensor(0.5), "returned 0.5; "),
        (math.nan, "returned nan; "),
        (math.inf, "returned inf; "),
        (2**62 + 1, "returned 4611686018427387905; "),
        (None, "returned None; "),
        (torch.ones(2), "raised RuntimeError; its function must return an int or a tensor of one"),
    ],
)
def test_what_is_no_whole_number_is_refused_by_name(value: Any, said: str) -> None:
    with pytest.raises(UnsupportedProblemError, match=f"counter 'steps' {said}"):
        count_units((counter(lambda _x, _y: value),), TASK)


def test_an_error_of_a_counter_does_not_quote_data() -> None:
    def raising(_x: Any, _y: Any) -> int:
        raise ValueError("x is 3.0")

    with pytest.raises(UnsupportedProblemError, match="'steps' raised ValueError") as raised:
        count_units((counter(raising),), TASK)
    assert "3.0" not in str(raised.value)


def test_units_add_up_by_name() -> None:
    parts = [{"a": Units(1, 2)}, {"a": Units(10, 20), "b": Units(5, 0)}, {}]
    assert add_counted(parts) == {"a": Units(11, 22), "b": Units(5, 0)}
    assert Units(3, 4).total == 7
    assert Units(3, 4) / 2 == Units(1.5, 2)


@pytest.mark.parametrize("name", ["", "two words", "Steps", "1st", "bytes", "rounds", "a:b"])
def test_names_that_cannot_be_asked_for_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"counter name .*: allowed are lower-case"):
        counter(lambda _x, _y: 1, name)


def test_two_counters_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two of one name: steps, steps"):
        Problem(
            lambda: LinearModel(1, 1),
            half_squared_error,
            (),
            counters=(counter(lambda _x, _y: 1), counter(lambda _x, _y: 2)),
        )
