"""The inner loop: numbers by hand on loss (theta - c)^2 / 2, c = 0."""

import pytest
import torch
from pydantic import ValidationError
from torch.func import grad

from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch

NOTHING = Batch(torch.zeros(0), torch.zeros(0))


def loss(params: Params, batch: Batch) -> torch.Tensor:
    return 0.5 * params["w"] ** 2


def point(value: float) -> Params:
    return {"w": torch.tensor(value, dtype=torch.float64)}


def test_no_steps_return_the_parameters_as_they_came() -> None:
    start = point(1.0)
    assert GradientSteps(lr=0.1, steps=0).run(loss, start, NOTHING)["w"] is start["w"]


def test_one_step_by_hand() -> None:
    # 1 - 0.1 * 1 = 0.9
    assert float(GradientSteps(lr=0.1, steps=1).run(loss, point(1.0), NOTHING)["w"]) == 0.9


def test_k_steps_shrink_the_distance_k_times() -> None:
    # phi_k = (1 - 0.1)^k
    fast = GradientSteps(lr=0.1, steps=4).run(loss, point(1.0), NOTHING)
    assert float(fast["w"]) == pytest.approx(0.9**4, rel=1e-15)


def test_a_bounded_step_is_shorter_the_longer_it_would_be() -> None:
    # g / (1 + |g| / 2): 6 becomes 6 / 4, and nothing exceeds 2
    step = GradientSteps(lr=1.0, steps=1, bound=2.0)
    assert float(step.run(loss, point(6.0), NOTHING)["w"]) == pytest.approx(6 - 6 / 4)
    assert float(step.run(loss, point(1e9), NOTHING)["w"]) == pytest.approx(1e9 - 2)


def test_the_bound_is_on_the_norm_over_all_entries_and_differentiable_at_zero() -> None:
    def both(params: Params, batch: Batch) -> torch.Tensor:
        return (0.5 * params["w"] ** 2).sum()

    start = {"w": torch.tensor([3.0, -4.0], dtype=torch.float64)}  # of norm 5
    fast = GradientSteps(lr=1.0, steps=1, bound=5.0).run(both, start, NOTHING)
    assert fast["w"].tolist() == pytest.approx([1.5, -2.0])
    step = GradientSteps(lr=0.1, steps=1, bound=1.0)
    slope = grad(lambda w: step.run(loss, {"w": w}, NOTHING)["w"])(point(0.0)["w"])
    assert float(slope) == pytest.approx(0.9)


def test_steps_after_the_first_may_be_shorter() -> None:
    # 1 - .1 = .9; then twice times 1 - .05
    inner = GradientSteps(lr=0.1, steps=3, later=0.5)
    assert float(inner.run(loss, point(1.0), NOTHING)["w"]) == pytest.approx(0.9 * 0.95**2)
    rates = {"w": torch.tensor(0.2, dtype=torch.float64)}
    found = inner.run(loss, point(1.0), NOTHING, rates=rates)["w"]
    assert float(found) == pytest.approx(0.8 * 0.9**2)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_steps_are_differentiable(steps: int) -> None:
    # d phi_k / d theta = (1 - 0.1)^k
    inner = GradientSteps(lr=0.1, steps=steps)
    slope = grad(lambda start: inner.run(loss, start, NOTHING)["w"])(point(1.0))["w"]
    assert float(slope) == pytest.approx(0.9**steps, rel=1e-15)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_first_order_steps_go_to_the_same_place_with_slope_one(steps: int) -> None:
    inner = GradientSteps(lr=0.1, steps=steps)

    def run(start: Params) -> torch.Tensor:
        return inner.run(loss, start, NOTHING, first_order=True)["w"]

    assert float(run(point(1.0))) == pytest.approx(0.9**steps, rel=1e-15)
    assert float(grad(run)(point(1.0))["w"]) == 1.0


def test_rates_replace_the_step_size_entry_by_entry() -> None:
    start = {"w": torch.tensor([1.0, 1.0], dtype=torch.float64)}
    rates = {"w": torch.tensor([0.5, -0.25], dtype=torch.float64)}
    fast = GradientSteps(lr=0.1, steps=1).run(
        lambda params, _: 0.5 * params["w"].square().sum(), start, NOTHING, rates=rates
    )
    # 1 - 0.5 * 1 and 1 + 0.25 * 1
    assert fast["w"].tolist() == [0.5, 1.25]


def test_the_start_is_not_changed() -> None:
    start = point(1.0)
    GradientSteps(lr=0.1, steps=3).run(loss, start, NOTHING)
    assert float(start["w"]) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [{"lr": 0.0}, {"lr": -1.0}, {"steps": -1}, {"lr": float("nan")}, {"step": 3}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        GradientSteps(**wrong)


# --- parts of the examples ----------------------------------------------------------------------


def rows_of_steps(count: int, **settings: int) -> list[list[int]]:
    """Return which examples each step sees, of examples 0, 1, 2, ..."""
    numbers = Batch({"x": torch.arange(count)}, torch.arange(count))
    parts = list(GradientSteps(**settings).parts(numbers))
    assert all(torch.equal(part.x["x"], part.y) for part in parts)
    return [part.y.tolist() for part in parts]


def test_all_examples_are_in_every_step_by_default() -> None:
    assert rows_of_steps(3, steps=2) == [[0, 1, 2], [0, 1, 2]]
    assert rows_of_steps(3, steps=1, batch=3) == [[0, 1, 2]]
    assert rows_of_steps(3, steps=1, batch=99) == [[0, 1, 2]]


def test_batches_follow_the_order_and_begin_anew() -> None:
    assert rows_of_steps(5, steps=4, batch=2) == [[0, 1], [2, 3], [4], [0, 1]]


def test_epochs_are_passes_over_all_examples() -> None:
    assert rows_of_steps(5, batch=2, epochs=2) == [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]
    assert rows_of_steps(3, epochs=2) == [[0, 1, 2], [0, 1, 2]]


def test_a_stream_is_one_pass_of_single_examples() -> None:
    assert rows_of_steps(3, batch=1, epochs=1) == [[0], [1], [2]]


def test_stages_see_episodes_of_their_own() -> None:
    # K = 3 stages of 2 episodes each
    assert rows_of_steps(6, steps=3, batch=2) == [[0, 1], [2, 3], [4, 5]]


def test_steps_of_another_number_forget_epochs() -> None:
    steps = GradientSteps(batch=2, epochs=3)
    assert steps.moves()
    assert steps.taking(4) == GradientSteps(steps=4, batch=2)
    assert not steps.taking(0).moves()
