"""What a round counts: tensors down to all who were asked, updates up from those who answered."""

import torch

from fedmaml.core.compression import Compression
from fedmaml.core.costs import Computation
from fedmaml.core.requests import EvaluateReply, TrainReply, TrainRequest
from fedmaml.server.round_result import cost_of_evaluation, result_of_round

META = {"theta": {"w": torch.zeros(3, 5)}, "alpha": {"w": torch.zeros(3, 5)}}  # 30 x 4 bytes
SHARED = {"sums": torch.zeros(2, dtype=torch.float64)}  # 16 bytes


def asked(*clients: int, compression: Compression) -> TrainRequest:
    return TrainRequest(1, clients, META, shared_statistics=SHARED, compression=compression)


def answer(*clients: int, computations: tuple[Computation, ...] = ()) -> TrainReply:
    weights = tuple(10.0 for _ in clients)
    return TrainReply(clients, weights, {}, {}, (), 1, "", computations)


def test_bytes_down_are_of_those_asked_and_bytes_up_of_those_who_answered() -> None:
    none, half = Compression(), Compression(method="float16")
    for compression, bytes_up in ((none, 120), (half, 60)):
        requests = [asked(0, 1, 2, compression=compression), asked(3, 4, compression=compression)]
        outcome = result_of_round(requests, [answer(4), answer(1)], [])  # 0, 2 and 3 did not answer
        assert outcome.clients == (1, 4)
        cost = outcome.cost
        assert (cost.clients, cost.updates) == (5, 2)
        assert cost.payload_bytes_down == 5 * (120 + 16)
        assert cost.payload_bytes_up == 2 * bytes_up


def test_operations_add_up_and_of_the_memory_the_largest_is_taken() -> None:
    # Each client is a site of its own, so no memory holds two of them.
    three = Computation(1, 300), Computation(2, 500), Computation(4, 200)
    requests = [asked(0, 1, 2, compression=Compression())]
    replies = [answer(0, 1, computations=three[:2]), answer(2, computations=three[2:])]
    cost = result_of_round(requests, replies, []).cost
    assert (cost.updates_measured, cost.flops, cost.peak_bytes) == (3, 7, 500)
    rounds = cost + result_of_round(requests, replies[1:], []).cost
    assert (rounds.updates_measured, rounds.flops, rounds.peak_bytes) == (4, 11, 500)
    evaluated = cost_of_evaluation(7, [EvaluateReply((0, 1, 2), {}, (), three)])
    assert (evaluated.clients, evaluated.flops, evaluated.peak_bytes) == (7, 7, 500)
    assert three[0] + three[2] == Computation(5, 300)  # one after the other, e.g. stages


def test_what_nobody_measured_has_no_peak() -> None:
    cost = result_of_round([asked(0, compression=Compression())], [answer(0)], []).cost
    assert (cost.updates, cost.updates_measured, cost.peak_bytes) == (1, 0, None)
