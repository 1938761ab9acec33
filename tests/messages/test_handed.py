"""In one process, messages stay values: with the bits, the bytes and the checks of written ones."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from fedmaml.client.app import app as client_app
from fedmaml.config import resolve, to_run_config
from fedmaml.core.errors import MessageError
from fedmaml.core.params import sha256
from fedmaml.messages.handed import Handed
from fedmaml.messages.train import read_train_reply, read_train_request
from fedmaml.server.cohort import choose
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid, Traffic
from fedmaml.server.roll import call_roll
from fedmaml.simulations.backends.in_process import InProcessGrid

CASES = {
    "a sum": {"scenario": "digits", "strategy": "fomaml"},
    "a stack": {"scenario": "digits", "strategy": "maml", "clients": 3},
    "memories": {"scenario": "digits", "strategy": "fedrep", "clients": 3},
    "two groups": {"scenario": "sinusoid", "strategy": "meta_sgd", "clients": 4},
    "compressed": {"scenario": "digits", "strategy": "fomaml", "compression.method": "top-k"},
    "statistics": {"scenario": "quadratic", "strategy": "maml"},
}


def carried_out(settings: dict[str, Any], by_value: bool) -> tuple[str, Traffic, list[str], Any]:
    """Run eight rounds; return theta hashed, traffic, kinds of messages, last round."""
    config = resolve(settings | {"nodes": 2})
    kinds: list[str] = []

    def watched(message: Message, context: Any) -> Message:
        reply = client_app(message=message, context=context)
        if message.metadata.message_type == "train":
            kinds.extend(type(each.content).__name__ for each in (message, reply))
        return reply

    inner = InProcessGrid(watched, 2, to_run_config(config, Path("unused")))  # type: ignore[arg-type]
    grid = MeteredGrid(inner)
    roll_call = call_roll(grid, 2, 10.0)
    strategy = FlowerStrategy(
        config.make_strategy(), config.make_problem(), roll_call=roll_call,
        compression=config.compression, by_value=by_value,
    )  # fmt: skip
    for round in range(1, 9):
        cohort = choose(0, round, roll_call.population("train"), config.clients)
        messages = strategy.train_messages(round, roll_call, cohort)
        strategy.step(round, grid.send_and_receive(messages))
    traffic = grid.traffic("train")
    return sha256(strategy.state.meta), traffic, kinds, strategy.last_round


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_values_give_the_bits_and_the_bytes_of_written_messages(settings: dict[str, Any]) -> None:
    written, handed = carried_out(settings, False), carried_out(settings, True)
    assert handed[0] == written[0]
    for name in ("messages_down", "messages_up", "message_bytes_down", "message_bytes_up"):
        assert getattr(handed[1], name) == getattr(written[1], name)
    assert handed[3] == written[3]
    assert set(written[2]) == {"RecordDict"}
    assert handed[2][:2] == ["RecordDict", "RecordDict"]  # the first of a shape is written
    compressed = "compression.method" in settings
    assert ("Handed" in handed[2]) is not compressed


@pytest.fixture
def handed() -> tuple[Message, FlowerStrategy, InProcessGrid]:
    config = resolve({"scenario": "digits", "strategy": "fomaml", "clients": 4})
    grid = InProcessGrid(client_app, 1, to_run_config(config, Path("unused")), by_value=True)
    roll_call = call_roll(grid, 1, 10.0)
    strategy = FlowerStrategy(
        config.make_strategy(), config.make_problem(), roll_call=roll_call, by_value=True
    )
    (message,) = strategy.train_messages(1, roll_call, [1, 2, 5, 9])
    return message, strategy, grid


def test_a_handed_reply_reads_as_the_written_one(handed: Any) -> None:
    message, _, grid = handed
    request = read_train_request(message.content)
    (reply,) = grid.send_and_receive([message])
    assert isinstance(reply.content, Handed)
    value = read_train_reply(reply.content, request)
    written = read_train_reply(reply.content.written(), request)
    assert value.clients == written.clients == (1, 2, 5, 9)
    for name in ("weights", "metrics", "rejected", "round", "base", "computations", "engines"):
        assert getattr(value, name) == getattr(written, name), name
    for group, update in value.update.items():
        assert isinstance(update, torch.Tensor) == isinstance(written.update[group], torch.Tensor)
        ours, theirs = (getattr(each, "limbs", each) for each in (update, written.update[group]))
        assert torch.equal(ours, theirs)


def test_what_a_node_does_to_its_copy_does_not_reach_the_server(handed: Any) -> None:
    message, strategy, _ = handed
    before = copy.deepcopy(strategy.state.meta)
    for value in message.content.value.meta["theta"].values():
        value.fill_(7)
    assert sha256(strategy.state.meta) == sha256(before)


def test_a_handed_reply_to_another_request_is_refused(handed: Any) -> None:
    message, strategy, grid = handed
    (reply,) = grid.send_and_receive([message])
    later = strategy.train_messages(2, strategy._hosts(grid), [1, 2, 5, 9])[0]
    with pytest.raises(MessageError, match="STALE"):
        read_train_reply(reply.content, read_train_request(later.content))


def test_a_handed_message_is_never_serialised_unwritten(handed: Any) -> None:
    message, _, _ = handed
    with pytest.raises(TypeError, match="stays in its process"):
        message.content.deflate()
