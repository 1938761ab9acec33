"""The meta-gradient: exact, through whatever adapt computes."""

import torch

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import make_learner
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.params import flatten, layout_of, unflatten


def adapt_with(steps: int):
    def adapt(learner, meta, memory, support):
        fast = GradientSteps(lr=0.1, steps=steps).run(learner.loss, meta["theta"], support)
        return lambda x: learner.apply(fast, x)

    return adapt


def test_gradient_and_loss_by_hand(parabola) -> None:
    # theta 1, one step: phi = 0.9, loss 0.9^2 / 2 = 0.405, gradient 0.9 * 0.9 = 0.81
    learner, _ = make_learner(parabola.problem, seeding.generator(0))
    meta = {"theta": {"head.weight": torch.ones(1, 1, dtype=torch.float64)}}
    gradient, loss = meta_gradient(adapt_with(1), learner, meta, {}, parabola.task())
    assert abs(float(loss) - 0.405) < 1e-15
    assert abs(float(gradient["theta"]["head.weight"]) - 0.81) < 1e-15


def test_exact_gradient_matches_finite_differences(classification) -> None:
    learner, theta = make_learner(classification.problem, seeding.generator(0))
    task, layout, flat = classification.task(), layout_of(theta), flatten(theta)
    gradient, _ = meta_gradient(adapt_with(3), learner, {"theta": theta}, {}, task)

    def objective(point: torch.Tensor) -> float:
        predictor = adapt_with(3)(learner, {"theta": unflatten(point, layout)}, {}, task.support)
        return float(learner.query_loss(predictor, task.query))

    # Central differences: error O(h^2) = 1e-10 and rounding 1e-16 / h = 1e-11.
    step = 1e-5 * torch.eye(len(flat), dtype=torch.float64)
    slopes = [(objective(flat + row) - objective(flat - row)) / 2e-5 for row in step]
    error = flatten(gradient["theta"]) - torch.tensor(slopes, dtype=torch.float64)
    assert error.abs().max() < 1e-8


def test_memory_is_held_constant_and_meta_not_changed(classification) -> None:
    learner, theta = make_learner(classification.problem, seeding.generator(0))
    body = {name: value for name, value in theta.items() if not name.startswith("head")}
    head = {name: value for name, value in theta.items() if name.startswith("head")}
    before = flatten(body).clone()

    def adapt(learner, meta, memory, support):
        return lambda x: learner.apply(meta["theta"] | memory, x)

    gradient, _ = meta_gradient(adapt, learner, {"theta": body}, head, classification.task())
    assert list(gradient["theta"]) == list(body)
    assert torch.equal(flatten(body), before)
    assert not any(value.requires_grad for value in (body | head).values())
