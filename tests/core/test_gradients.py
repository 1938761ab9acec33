"""Gradients by plain autograd and by torch.func are the same numbers, at every level."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from fedmaml.core.gradients import (
    gradient,
    gradient_and_value,
    inside_transform,
    is_differentiated,
)
from fedmaml.core.params import Params


def point(*values: float) -> Params:
    return {"w": torch.tensor(values, dtype=torch.float64)}


def cubes(params: Params) -> Tensor:
    return params["w"].pow(3).sum()


def test_gradient_and_value_by_hand() -> None:
    # d (1 + 8) = (3, 12)
    start = point(1.0, 2.0)
    slope, value = gradient_and_value(cubes, start)
    assert slope["w"].tolist() == [3, 12]
    assert float(value) == 9
    assert not is_differentiated((slope, value, start))


def test_gradient_of_what_does_not_depend_on_the_point_is_zero() -> None:
    assert gradient(lambda _: torch.ones(()), point(1.0, 2.0))["w"].tolist() == [0, 0]
    both = point(1.0) | {"unused": torch.ones(2)}
    assert gradient(cubes, both)["unused"].tolist() == [0, 0]


def test_a_point_that_the_function_also_uses_as_a_constant_is_one_there() -> None:
    # phi * theta at phi = theta = 2: the derivative by phi alone is 2, not 4
    theta = point(2.0)
    assert gradient(lambda phi: (phi["w"] * theta["w"]).sum(), theta)["w"].tolist() == [2]


def nested(theta: Params) -> Tensor:
    """Return f at phi = theta - f'(theta) / 10 with f = w^3: the slope is (1 - 0.6 w) 3 phi^2."""
    slope = gradient(cubes, theta)
    return cubes({"w": theta["w"] - 0.1 * slope["w"]})


def held(theta: Params) -> Tensor:
    slope = gradient(cubes, theta, again=False)
    return cubes({"w": theta["w"] - 0.1 * slope["w"]})


def through_a_closure(theta: Params) -> Tensor:
    """Return phi * w with phi = -w / 10, of which the gradient step knows w by a closure only."""
    slope = gradient(lambda phi: (phi["w"] * theta["w"]).sum(), point(0.0, 0.0))
    return (-0.1 * slope["w"] * theta["w"]).sum()


def through_a_deep_closure(theta: Params) -> Tensor:
    """Return the same, two levels further in."""

    def outer(middle: Params) -> Tensor:
        slope = gradient(lambda phi: (phi["w"] * theta["w"]).sum(), point(0.0, 0.0))
        return (slope["w"] * middle["w"]).sum()

    return (-0.1 * gradient(outer, point(1.0, 1.0))["w"] * theta["w"]).sum()


SLOPES: dict[Callable[[Params], Tensor], Callable[[float], float]] = {
    nested: lambda w: (1 - 0.6 * w) * 3 * (w - 0.3 * w**2) ** 2,
    held: lambda w: 3 * (w - 0.3 * w**2) ** 2,
    through_a_closure: lambda w: -0.2 * w,
    through_a_deep_closure: lambda w: -0.2 * w,
}


@pytest.mark.parametrize("function", SLOPES)
def test_derivatives_of_gradients_by_hand_in_every_way(
    function: Callable[[Params], Tensor],
) -> None:
    values = (1.0, -0.7)
    expected = torch.tensor([SLOPES[function](w) for w in values], dtype=torch.float64)
    start = point(*values)
    plain = gradient(function, start)
    assert not is_differentiated(plain)
    own = point(*values)["w"].requires_grad_()
    (by_caller,) = torch.autograd.grad(function({"w": own}), own)  # a strategy's own autograd
    one_of_many = {"w": torch.stack([start["w"], start["w"] + 1])}
    vectorised = vmap(lambda params: gradient(function, params))(one_of_many)["w"][0]
    for found in (plain["w"], by_caller, grad(function)(start)["w"], vectorised):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_third_derivative_by_hand() -> None:
    # w^4: 24 w
    def slope(function: Callable[[Params], Tensor]) -> Callable[[Params], Tensor]:
        return lambda params: gradient(function, params)["w"].sum()

    third = slope(slope(slope(lambda params: params["w"].pow(4).sum())))
    assert float(third(point(2.0))) == 48


def test_without_grad_mode_gradients_are_the_same_and_hold_no_graph() -> None:
    start = point(1.0)["w"].requires_grad_()
    with torch.no_grad():
        slope, value = gradient_and_value(cubes, {"w": start})
    assert float(slope["w"]) == 3
    assert not is_differentiated((slope, value))


def test_it_is_known_when_torch_func_is_at_work() -> None:
    seen = []

    def noted(value: Tensor) -> Tensor:
        seen.append(inside_transform())
        return value.sum()

    noted(torch.ones(2))
    vmap(noted)(torch.ones(2, 2))
    grad(noted)(torch.ones(2))
    assert seen == [False, True, True]
