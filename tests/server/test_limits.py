"""Norms, shares and quorum: what one site can do to a round."""

import itertools
from collections.abc import Sequence

import pytest
import torch

from fedmaml.core.aggregation import ExactSum, exact_sum
from fedmaml.core.requests import TrainReply
from fedmaml.server.aggregate import weighted_mean
from fedmaml.server.limits import capped, norm_of, without_outliers


def reply(client: int, norm: float = 1.0, weight: float = 10.0) -> tuple[str, TrainReply]:
    update = torch.tensor([[0.6, 0.8]], dtype=torch.float64) * norm
    return str(client), TrainReply((client,), (weight,), {}, {"theta": update}, (), 1, "")


def kept(norms: Sequence[float], limit: float = 10.0) -> set[int]:
    replies = [reply(client, norm) for client, norm in enumerate(norms)]
    sound, rejected = without_outliers(replies, limit)
    out = {client for each in rejected for client in each.clients}
    clients = {client for _, one in sound for client in one.clients}
    assert clients | out == set(range(len(norms)))
    return clients


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ((1, 1.1, 0.9, 1000), {0, 1, 2}),
        ((1, 1.1, 0.9, 9), {0, 1, 2, 3}),
        ((1e6, 1, 2, 1e6, 1), {1, 2, 4}),
        ((1, 1000), {0, 1}),  # of two nobody knows which is the wrong one
        ((0, 0, 0, 5), {0, 1, 2, 3}),  # nothing to compare with
        ((0, 0, 0), {0, 1, 2}),
    ],
)
def test_an_update_far_above_the_median_is_left_out(
    norms: Sequence[float], expected: set[int]
) -> None:
    assert kept(norms) == expected
    assert kept(norms, 0.0) == set(range(len(norms)))


def test_others_are_treated_as_if_who_is_left_out_had_been_absent() -> None:
    for norms in itertools.product((1.0, 2.0, 30.0, 900.0), repeat=4):
        everybody = kept(norms)
        for gone in set(range(len(norms))) - everybody:
            rest = [client for client in range(len(norms)) if client != gone]
            assert {rest[at] for at in kept([norms[client] for client in rest])} == everybody


def test_the_norm_of_many_clients_is_that_of_their_weighted_mean_in_any_form() -> None:
    updates = torch.tensor([[3.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    stack = TrainReply((0, 1), (1.0, 3.0), {}, {"theta": updates}, (), 1, "")
    total = TrainReply((0, 1), (1.0, 3.0), {}, {"theta": exact_sum(updates, weights)}, (), 1, "")
    by_hand = (0.75**2 + 6.0**2) ** 0.5
    assert norm_of(stack) == pytest.approx(by_hand)
    assert norm_of(total) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("weights", "share", "expected"),
    [
        ((10_000, 1, 1), 0.5, (2, 1, 1)),
        ((10_000, 10_000, 40), 0.4, (80, 80, 40)),
        ((5, 5, 5), 0.5, (5, 5, 5)),
        ((10_000, 1, 1), 1.0, (10_000, 1, 1)),
        ((100, 50, 10), 0.1, (10, 10, 10)),  # three sites cannot have a tenth each
    ],
)
def test_no_site_has_more_than_its_share(
    weights: Sequence[int], share: float, expected: Sequence[int]
) -> None:
    replies = [reply(n, float(n + 1), float(weight))[1] for n, weight in enumerate(weights)]
    found = capped(replies, share)
    assert [one.weights for one in found] == [(float(weight),) for weight in expected]
    meta = {"theta": {"w": torch.zeros(2, dtype=torch.float64)}}
    mean = weighted_mean(found, meta)["theta"]["w"]
    by_hand = sum(weight * (n + 1) for n, weight in enumerate(expected)) / sum(expected)
    assert mean[0] == pytest.approx(0.6 * by_hand)


def test_a_sum_is_capped_as_its_mean() -> None:
    updates = torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float64)
    weights = torch.tensor([500.0, 500.0], dtype=torch.float64)
    large = TrainReply(
        (0, 1), (500.0, 500.0), {}, {"theta": exact_sum(updates, weights)}, (), 1, ""
    )
    one, other = capped([large, reply(2, weight=20.0)[1]], 0.5)
    assert one.weights == (10.0, 10.0)
    value = one.update["theta"]
    assert isinstance(value, ExactSum)
    assert value.weight == 20.0
    assert value.mean().tolist() == pytest.approx([2.0, 4.0])
    assert other.weights == (20.0,)
