"""Costs add up, survive JSON, and count what was really computed."""

import gc
import json

import pytest
import torch
from torch import Tensor
from torch.func import grad
from torch.nn.functional import conv2d, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from fedmaml.core.costs import Computation, Cost
from fedmaml.core.meter import count_flops, measure
from fedmaml.core.networks import Conv4

FULL = Cost(4, 3, 400, 300, 2, 1, 450, 350, 2, 10**12, 77, 0.25, 0.5)


def test_a_matrix_product_is_two_operations_per_multiply_add() -> None:
    assert count_flops(torch.mm, torch.ones(3, 5), torch.ones(5, 7)) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("inference", [False, True])
def test_operations_are_those_of_pytorchs_own_counter(inference: bool) -> None:
    network = Conv4(1, 16, 3, filters=4)
    x, query = torch.ones(2, 1, 16, 16), torch.ones(1, 2, 5, 8)

    def function(x: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        return network(x), scaled_dot_product_attention(query, query, query)

    with torch.inference_mode(inference):
        measured = count_flops(function, x, query)
    with FlopCounterMode(display=False) as counter:
        function(x, query)
    assert measured == counter.get_total_flops() > 0


def test_grouped_convolutions_are_not_counted_too_high() -> None:
    """Forward, and one product of the same size for the weights; PyTorch counts 3 groups thrice."""
    x, weight = torch.ones(2, 3, 6, 6), torch.ones(9, 1, 3, 3)
    forward = 2 * 2 * (4 * 4) * 9 * 9
    backward = grad(lambda weight: conv2d(x, weight, groups=3).square().sum())
    assert count_flops(backward, weight) == 2 * forward


def test_the_peak_is_the_most_that_is_alive_at_once() -> None:
    def function(x: Tensor) -> Tensor:
        a = x * 2
        b = a + 1  # a and b: 2 x 400 bytes
        del a
        c = b * b  # b and c
        del b
        return c.sum()  # c and a scalar

    assert measure(function, torch.ones(100)) == Computation(0, 800)


def test_views_and_changes_in_place_take_no_memory() -> None:
    def function(x: Tensor) -> Tensor:
        return (x * 2).view(10, 10).T.add_(1)

    assert measure(function, torch.ones(100)).peak_bytes == 400


def test_the_input_is_not_counted() -> None:
    assert measure(lambda x: x.view(10, 10), torch.ones(100)) == Computation(0, 0)


def test_a_function_that_raises_leaves_the_collector_on() -> None:
    def function(_x: Tensor) -> None:
        raise ValueError("no")

    assert gc.isenabled()
    with pytest.raises(ValueError, match="no"):
        measure(function, torch.ones(1))
    assert gc.isenabled()


def test_costs_add_up_and_the_larger_peak_stays() -> None:
    total = FULL + FULL + Cost(peak_bytes=78, flops=1)
    assert (total.clients, total.message_bytes_up, total.flops) == (8, 700, 2 * 10**12 + 1)
    assert (total.peak_bytes, total.seconds_server) == (78, 1.0)
    assert FULL + Cost() == Cost() + FULL == FULL
    assert (Cost() + Cost()).peak_bytes is None


@pytest.mark.parametrize("cost", [FULL, Cost()])
def test_a_cost_survives_json(cost: Cost) -> None:
    assert Cost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


def test_means_are_over_those_who_reported() -> None:
    assert FULL.per_client_and_round() == {
        "payload_bytes_down": 100, "payload_bytes_up": 100, "flops": 5 * 10**11, "peak_bytes": 77,
    }  # fmt: skip
    assert FULL.per_message() == {"bytes_down": 225, "bytes_up": 350}
    assert set(Cost().per_client_and_round().values()) == {None}
