"""Compression at the client: nothing is lost with feedback, and one client harms no other."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedmaml.client import evaluate_reply, train_reply
from fedmaml.client.memory import load_memories, save_memories
from fedmaml.computing.accumulator import Accumulator
from fedmaml.computing.compression import RESIDUAL, compressed, split_residuals
from fedmaml.computing.engines import Rows
from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.compression import Compression
from fedmaml.core.compressors import to_bytes
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.params import MetaParams, flatten
from fedmaml.core.requests import TrainRequest, Used
from fedmaml.core.tasks import Task
from fedmaml.messages.memories import read_memory
from fedmaml.messages.train import (
    TrainRequestWriter,
    read_train_reply,
    read_train_request,
    write_train_reply,
)
from fedmaml.server import FlowerStrategy
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.strategies import FOMAML
from fedmaml.strategies.base import ClientUpdate
from tests.conftest import Example

META: MetaParams = {
    "theta": {"w": torch.zeros(20, 15), "b": torch.zeros(20)},
    "alpha": {"w": torch.zeros(20, 15), "b": torch.zeros(20)},
}
METHODS = ("float16", "qsgd-8", "qsgd-4", "top-k")


def request(method: str, round: int = 1, **settings: Any) -> TrainRequest:
    compression = Compression(method=method, **settings)  # type: ignore[arg-type]
    return TrainRequest(round, (0, 1, 2), META, "stack", compression=compression, seed=7)


def rows(round: int = 1) -> Rows:
    """Return updates of clients 0, 1, 2: normal numbers, other ones in every round."""
    update = {
        group: {
            name: seeding.normal(seeding.key(round, group, name), range(3), *value.shape).float()
            for name, value in params.items()
        }
        for group, params in META.items()
    }
    weight = torch.full((3,), 10.0, dtype=torch.float64)
    return Rows((0, 1, 2), ClientUpdate(update, weight, {}, {"head": torch.ones(3, 2)}))


def flat(part: Rows) -> Tensor:
    update = part.results.update
    return torch.cat([v.flatten(1) for params in update.values() for v in params.values()], 1)


def residuals(part: Rows) -> dict[int, dict[str, Tensor]]:
    _, found = split_residuals(
        {c: {n: v[i] for n, v in part.results.memory.items()} for i, c in enumerate(part.clients)}
    )
    return found


@pytest.mark.parametrize("method", METHODS)
def test_what_was_sent_and_the_residual_add_up_to_all_updates(method: str) -> None:
    asked = request(method, error_feedback=True, fraction=0.05)
    left = {c: {RESIDUAL + group: torch.zeros(320) for group in META} for c in range(3)}
    sent, given = torch.zeros(3, 640), torch.zeros(3, 640)
    for round in range(1, 13):
        part = compressed(request(method, round, **vars_of(asked)), rows(round), left)
        left = residuals(part)
        sent, given = sent + flat(part), given + flat(rows(round))
    kept = torch.stack([torch.cat(list(left[c].values())) for c in range(3)])
    assert kept.abs().max() > 0
    # 12 rounds of float32 additions of numbers below about 10
    torch.testing.assert_close(sent + kept, given, rtol=0, atol=1e-4)
    assert (sent - given).abs().max() > 1e-4, "without the residual something would be missing"


def vars_of(asked: TrainRequest) -> dict[str, Any]:
    settings = asked.compression
    return {"fraction": settings.fraction, "error_feedback": settings.error_feedback}


@pytest.mark.parametrize("method", ["qsgd-8", "qsgd-4"])
def test_what_is_drawn_follows_seed_round_group_and_client(method: str) -> None:
    """The same update everywhere, so that only what is drawn can make codes differ."""
    none: dict[int, dict[str, Tensor]] = {c: {} for c in range(3)}
    params = {"w": torch.linspace(-1, 1, 300).expand(3, -1).reshape(3, 20, 15)}
    update = {group: params | {"b": torch.zeros(3, 20)} for group in META}
    part = Rows((0, 1, 2), ClientUpdate(update, torch.ones(3, dtype=torch.float64), {}, {}))

    def codes(seed: int, round: int) -> list[bytes]:
        found = compressed(replace(request(method, round), seed=seed), part, none).codes
        assert found is not None
        return [code.numpy().tobytes() for codes in found.values() for code in codes]

    assert codes(7, 1) == codes(7, 1)
    six = [codes(seed, round) for seed in (0, 7, 8) for round in (1, 2)]
    flat_codes = [code for codes in six for code in codes]
    assert len(set(flat_codes)) == len(flat_codes) == 6 * 2 * 3
    compressor = Compression(method=method).compressor()  # type: ignore[arg-type]
    assert compressor is not None
    key = seeding.key(8, "compression", 2, "alpha")
    one = flatten({name: value[:1] for name, value in update["alpha"].items()}, batch_axes=1)
    code = compressor.encode(one, partial(seeding.uniform, key, (2,), 320))
    assert codes(8, 2)[5] == to_bytes(code)[0].numpy().tobytes()


def test_the_strategys_memory_stays_as_it_is_beside_the_residual() -> None:
    left = {c: {RESIDUAL + group: torch.zeros(320) for group in META} for c in range(3)}
    memory = compressed(request("top-k"), rows(), left).results.memory
    assert list(memory) == ["head", RESIDUAL + "theta", RESIDUAL + "alpha"]
    assert torch.equal(memory["head"], torch.ones(3, 2))
    without = compressed(request("qsgd-4"), rows(), {c: {} for c in range(3)})
    assert list(without.results.memory) == ["head"]


def test_a_client_that_is_not_asked_keeps_its_residual() -> None:
    context = Context(1, 1, {}, RecordDict(), {})
    initial_memory = {"head": torch.zeros(2), RESIDUAL + "theta": torch.zeros(3)}
    first = {"head": torch.tensor([1.0, 2.0]), RESIDUAL + "theta": torch.tensor([3.0, 4.0, 5.0])}
    used = {0: Used(1, "base")}
    save_memories(context, {0: first}, used[0])
    for round in range(2, 5):
        save_memories(context, {1: initial_memory}, Used(round, "base"))
    loaded = load_memories(context, [0], initial_memory, used)[0]
    assert {n: v.tolist() for n, v in loaded.items()} == {
        name: value.tolist() for name, value in first.items()
    }
    assert list(load_memories(context, [0], {"head": torch.zeros(2)}, used)[0]) == ["head"]


def test_memories_of_thousands_of_clients_are_read_in_a_moment() -> None:
    """Looking at one of Flower's typed views for each client took a minute."""
    context, initial_memory = (
        Context(1, 1, {}, RecordDict(), {}),
        {RESIDUAL + "theta": torch.zeros(3)},
    )
    started = time.process_time()
    made = Used(1, "base")
    save_memories(context, dict.fromkeys(range(3000), initial_memory), made)
    used = dict.fromkeys(range(3000), made)
    assert len(load_memories(context, range(3000), initial_memory, used)) == 3000
    assert time.process_time() - started < 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_an_update_that_is_not_sound_is_left_out_and_changes_no_other(
    method: str, bad: float
) -> None:
    none = {c: {RESIDUAL + group: torch.zeros(320) for group in META} for c in range(3)}
    asked = request(method, error_feedback=True)
    part = rows()
    part.results.update["theta"]["w"][1, 3, 4] = bad
    collected = Accumulator(asked)
    sound = collected.add(compressed(asked, part, none))
    assert sound == [0, 2]
    (rejection,) = collected.rejected
    assert rejection.clients == (1,)
    assert rejection.reason == ("RANGE" if bad == 1e30 else "NONFINITE")
    whole = compressed(asked, rows(), none)
    assert whole.codes is not None
    reported = collected.reply({"loop": len(collected.clients)}, (), {}).update
    for group, codes in whole.codes.items():
        assert torch.equal(reported[group], codes[[0, 2]])  # type: ignore[arg-type]


def test_what_float16_cannot_hold_is_left_out() -> None:
    asked, part = request("float16"), rows()
    part.results.update["alpha"]["b"][2, 0] = 65520.0
    collected = Accumulator(asked)
    assert collected.add(compressed(asked, part, {c: {} for c in range(3)})) == [0, 1]
    (rejection,) = collected.rejected
    assert rejection.reason == "NONFINITE"
    assert "after compression" in rejection.detail


@pytest.mark.parametrize("method", METHODS)
def test_the_server_reads_the_updates_that_the_client_reckons_with(method: str) -> None:
    compression = Compression(method=method, fraction=0.05)  # type: ignore[arg-type]
    writer = TrainRequestWriter(request(method, 4, fraction=0.05))
    asked = read_train_request(writer.write([0, 1, 2]))
    assert (asked.compression, asked.seed) == (compression, 7)
    zeros = {c: {RESIDUAL + g: z for g, z in compression.first_residual(META).items()}
             for c in range(3)}  # fmt: skip
    part = compressed(asked, rows(), zeros)
    collected = Accumulator(asked)
    collected.add(part)
    content = write_train_reply(collected.reply({"loop": len(collected.clients)}, (), {}))
    each = compression.payload_bytes(META)
    arrays = content.array_records["update"].values()
    assert sum(array.shape[1] for array in arrays) == each
    header = 128  # of an .npy file
    assert sum(len(array.data) for array in arrays) == 3 * each + 2 * header
    update = read_train_reply(content, asked).update
    assert torch.equal(torch.cat(list(update.values()), 1), flat(part))  # type: ignore[arg-type]


def test_another_round_client_group_or_seed_rounds_otherwise() -> None:
    none: dict[int, dict[str, Tensor]] = {c: {} for c in range(3)}
    same = Rows((0, 1, 2), rows().results._replace(update={
        group: {n: torch.full((3, *v.shape), 0.3) for n, v in params.items()}
        for group, params in META.items()
    }))  # fmt: skip
    same.results.update["theta"]["w"][:, 0, 0] = same.results.update["alpha"]["w"][:, 0, 0] = 1.0
    asked = request("qsgd-4")
    codes = compressed(asked, same, none).codes
    later = compressed(request("qsgd-4", round=2), same, none).codes
    assert codes is not None
    assert later is not None
    assert not torch.equal(codes["theta"], later["theta"])
    assert not torch.equal(codes["theta"], codes["alpha"])
    assert not torch.equal(codes["theta"][0], codes["theta"][1])
    again = compressed(asked, same, none).codes
    assert again is not None
    assert torch.equal(codes["theta"], again["theta"])


@pytest.mark.parametrize("feedback", [True, False])
def test_top_k_learns_with_feedback_what_it_never_learns_without(feedback: bool) -> None:
    """Two clients whose largest entries cancel: f_i = +-2 a + (b - 1)^2 / 2, minimum at b = 1.

    Top-1 of the gradients (+-2, b - 1) never tells of b, unless what is left out adds up.
    """
    b = 0.0
    left = {c: {RESIDUAL + "theta": torch.zeros(2)} if feedback else {} for c in (0, 1)}
    for round in range(1, 400):
        gradients = torch.tensor([[2.0, b - 1], [-2.0, b - 1]])
        weight = torch.ones(2, dtype=torch.float64)
        part = Rows((0, 1), ClientUpdate({"theta": {"w": gradients}}, weight, {}, {}))
        compression = Compression("top-k", 0.5, feedback)
        asked = TrainRequest(round, (0, 1), {"theta": {"w": torch.zeros(2)}}, "stack",
                             compression=compression)  # fmt: skip
        sent = compressed(asked, part, left)
        left = residuals(sent)
        b -= 0.02 * float(flat(sent).mean(0)[1])
    assert b == pytest.approx(1.0, abs=0.1) if feedback else b == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_an_app_of_ones_own_is_reported_how_to_compress_by_the_server(
    method: str, classification: Example
) -> None:
    problem, method_settings = classification.problem, {"method": method, "error_feedback": True}
    compression = Compression(**method_settings)  # type: ignore[arg-type]
    app = ClientApp()
    contexts = {}

    def task(context: Context) -> Task:
        contexts[context.node_config["partition-id"]] = context
        return classification.task(int(context.node_config["partition-id"]))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return train_reply(message, context, FOMAML(), problem, task(context))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return evaluate_reply(message, context, FOMAML(), problem, task(context))

    strategy = FlowerStrategy(FOMAML(), problem, compression=compression)
    grid = InProcessGrid(app, 5, {})
    result = strategy.start(grid, strategy.initial_arrays, num_rounds=3)
    last = strategy.last_round
    assert (last.clients, last.rejected) == ((0, 1, 2, 3, 4), ())
    assert last.cost.payload_bytes_up == 5 * compression.payload_bytes(strategy.state.meta)
    losses = [float(result.train_metrics_clientapp[n]["loss_after"]) for n in (1, 2, 3)]
    assert losses[-1] < losses[0]
    for client, context in contexts.items():
        memory = read_memory(context.state, client, strategy.used[client])
        assert memory is not None
        residual = memory[RESIDUAL + "theta"].numpy()
        assert 0 < abs(residual).max() < 1


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("method", "topk", "compression.method = 'topk': input should be 'none', 'float16'"),
        ("fraction", 0, "compression.fraction = 0: input should be greater than 0"),
        ("fraction", 1.5, "compression.fraction = 1.5: input should be less than or equal to 1"),
        ("error_feedback", "maybe", "compression.error_feedback = 'maybe': input should be 'auto'"),
        ("metod", "top-k", "did you mean 'compression.method'"),
    ],
)
def test_wrong_settings_are_named(key: str, value: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        resolve({"scenario": "digits", f"compression.{key}": value})
