"""The outer optimiser equals torch's own, with its state as data."""

import copy

import pytest
import torch
from pydantic import ValidationError
from pytorch_optimizer import Yogi

from fedmaml.core import seeding
from fedmaml.core.outer_optimizer import OptimizerState, OuterOptimizer
from fedmaml.core.params import MetaParams

ROUNDS = 5


def meta_at(value: float) -> MetaParams:
    return {
        "theta": {
            "w": torch.full((2, 2), value, dtype=torch.float64),
            "b": torch.full((3,), -value, dtype=torch.float64),
        },
        "alpha": {"w": torch.full((2, 2), 0.1, dtype=torch.float64)},
    }


def gradient_of(round: int) -> MetaParams:
    return {
        group: {
            name: seeding.normal(seeding.key(0, group, name, round), [0], *value.shape)[0]
            for name, value in params.items()
        }
        for group, params in meta_at(1.0).items()
    }


def leaves(meta: MetaParams) -> list[torch.Tensor]:
    return [value for params in meta.values() for value in params.values()]


def run(outer: OuterOptimizer, through: object = None) -> MetaParams:
    """Take ROUNDS steps; ``through`` is applied to the state between them."""
    meta, state = meta_at(1.0), {}
    for round in range(ROUNDS):
        meta, state = outer.step(meta, gradient_of(round), state, round)
        state = through(state) if through else state
    return meta


def run_torch(make) -> list[torch.Tensor]:
    parameters = [value.requires_grad_() for value in leaves(meta_at(1.0))]
    optimizer = make(parameters)
    for round in range(ROUNDS):
        for parameter, gradient in zip(parameters, leaves(gradient_of(round)), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize(
    ("outer", "make"),
    [
        (OuterOptimizer(optimizer="adam", lr=0.1), lambda p: torch.optim.Adam(p, 0.1)),
        (OuterOptimizer(optimizer="yogi", lr=0.1), lambda p: Yogi(p, 0.1)),
        (OuterOptimizer(optimizer="sgd", lr=0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (
            OuterOptimizer(optimizer="sgd", lr=0.1, momentum=0.9),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        ),
    ],
    ids=["adam", "yogi", "sgd", "momentum"],
)
def test_several_steps_have_the_bits_of_the_usual_classes(outer: OuterOptimizer, make) -> None:
    for ours, theirs in zip(leaves(run(outer)), run_torch(make), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    "outer",
    [
        OuterOptimizer(optimizer="adam", lr=0.1),
        OuterOptimizer(optimizer="sgd", lr=0.1, momentum=0.9),
        OuterOptimizer(optimizer="yogi", lr=0.1),
    ],
    ids=lambda outer: outer.optimizer,
)
def test_state_is_plain_tensors_that_can_be_saved_and_restored(outer: OuterOptimizer) -> None:
    def through_numpy(state: OptimizerState) -> OptimizerState:
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        return {name: torch.from_numpy(value.numpy().copy()) for name, value in state.items()}

    for one, other in zip(leaves(run(outer)), leaves(run(outer, through_numpy)), strict=True):
        assert torch.equal(one, other)


def test_sgd_steps_against_the_gradient() -> None:
    # 1 - 0.5 * 2 = 0
    one = {"theta": {"w": torch.tensor([1.0])}}
    two = {"theta": {"w": torch.tensor([2.0])}}
    meta, state = OuterOptimizer(optimizer="sgd", lr=0.5).step(one, two, {}, 0)
    assert meta["theta"]["w"].tolist() == [0.0]
    assert state == {}


def test_several_yogi_steps_follow_the_formula() -> None:
    # Zaheer et al. 2018, Algorithm 2, with the bias corrections of pytorch_optimizer:
    #   m <- m + (1 - b1)(g - m);  v <- v - (1 - b2) sign(v - g^2) g^2;  both begin at 1e-6
    #   w <- w - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
    lr, b1, b2, eps = 0.1, 0.9, 0.999, 1e-3
    expected = []
    for index, w in enumerate(leaves(meta_at(1.0))):
        m = v = torch.full_like(w, 1e-6)
        for t in range(1, ROUNDS + 1):
            g = leaves(gradient_of(t - 1))[index]
            m = m + (1 - b1) * (g - m)
            v = v - (1 - b2) * torch.sign(v - g**2) * g**2
            w = w - lr / (1 - b1**t) * m / ((v / (1 - b2**t)).sqrt() + eps)
        expected.append(w)
    yogi = OuterOptimizer(optimizer="yogi", lr=lr)
    for ours, by_hand in zip(leaves(run(yogi)), expected, strict=True):
        torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam", "yogi"])
def test_inputs_are_not_changed(name: str) -> None:
    outer = OuterOptimizer(optimizer=name, lr=0.1, momentum=0.5 if name == "sgd" else 0.0)
    meta, state = outer.step(meta_at(1.0), gradient_of(0), {}, 0)
    gradient = gradient_of(1)
    before = copy.deepcopy((meta, gradient, state))
    after, _ = outer.step(meta, gradient, state, 1)
    for now, then in zip(
        (meta, gradient, {"s": state}), (*before[:2], {"s": before[2]}), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(leaves(now), leaves(then), strict=True))
    assert not any(value.requires_grad for value in leaves(after))


def test_new_meta_parameters_keep_tree_shapes_and_dtype() -> None:
    for dtype in (torch.float32, torch.float64):
        start = {g: {n: v.to(dtype) for n, v in p.items()} for g, p in meta_at(1.0).items()}
        after, _ = OuterOptimizer().step(start, gradient_of(0), {}, 0)
        for group, params in start.items():
            assert list(after[group]) == list(params)
            for name, value in params.items():
                assert after[group][name].shape == value.shape
                assert after[group][name].dtype == dtype


def test_scalar_parameters_can_be_stepped() -> None:
    one = {"theta": {"gain": torch.tensor(1.0), "w": torch.ones(2)}}
    meta, _ = OuterOptimizer(optimizer="sgd", lr=0.5).step(one, one, {}, 0)
    assert meta["theta"]["gain"].shape == ()
    assert float(meta["theta"]["gain"]) == 0.5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        # 2 (1 - r/4), then 0
        ("linear", [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]),
        # 1 + cos(pi r / 4): cos 45 degrees is sqrt(1/2) = 0.7071
        ("cosine", [2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0, 0.0]),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    outer = OuterOptimizer(lr=2.0, schedule=schedule, horizon=4)
    assert [outer.rate(round) for round in range(6)] == pytest.approx(expected, abs=1e-15)


def test_the_schedule_scales_the_step() -> None:
    one = {"theta": {"w": torch.tensor([1.0])}}
    outer = OuterOptimizer(optimizer="sgd", lr=1.0, schedule="linear", horizon=4)
    # after 3 of 4 rounds lr is 1/4: 1 - 1/4
    assert float(outer.step(one, one, {}, 3)[0]["theta"]["w"]) == 0.75


@pytest.mark.parametrize("name", ["sgd", "adam", "yogi"])
def test_nothing_moves_past_the_horizon(name: str) -> None:
    outer = OuterOptimizer(optimizer=name, schedule="cosine", horizon=4)
    after, _ = outer.step(meta_at(1.0), gradient_of(0), {}, 9)
    assert all(torch.equal(a, b) for a, b in zip(leaves(after), leaves(meta_at(1.0)), strict=True))


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"momentum": 1}, {"optimizer": "lion"}, {"schedule": "step"}], ids=str
)
def test_impossible_settings_are_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        OuterOptimizer(**wrong)
