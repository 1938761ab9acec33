"""How long a round waits: its deadline, and its quorum."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.config import resolve, to_run_config
from fedmaml.core.errors import ConfigurationError, QuorumError
from fedmaml.runs.directory import RunDirectory
from fedmaml.server import rounds
from fedmaml.server.app import app as server_app
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.simulations.backends.in_process import InProcessGrid

SETTINGS: dict[str, Any] = {
    "scenario": "digits", "strategy": "fomaml", "rounds": 3, "nodes": 4, "clients": 0,
    "task.train_clients": 4, "task.validation_clients": 0, "task.test_clients": 2,
}  # fmt: skip


class Away:
    """A ClientApp whose nodes 3 and 4 do not answer some attempts at round 2."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        self.asked = 0

    def __call__(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and message.metadata.dst_node_id in (3, 4):
            round = message.content.config_records["request"]["round"]
            self.asked += round == 2 and message.metadata.dst_node_id == 3
            if round == 2 and self.asked <= self.attempts:
                return Message(Error(5, "gone"), reply_to=message)
        return client_app(message=message, context=context)


def ran(out: Path, client: Any, **settings: Any) -> RunDirectory:
    config = resolve(SETTINGS | settings)
    directory = RunDirectory(out)
    directory.create(config)
    run_config = to_run_config(config, out)
    grid = InProcessGrid(client, config.nodes, run_config)
    server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))
    return directory


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(rounds, "_LONGEST_PAUSE", 0.02)


@pytest.mark.parametrize("strategy", ["fomaml", "fedrep"])
def test_a_round_below_its_quorum_is_repeated_until_the_sites_are_back(
    strategy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = ran(tmp_path / "whole", client_app, strategy=strategy).summary()
    client = Away(attempts=3)
    directory = ran(tmp_path / "x", client, strategy=strategy, quorum=3, quorum_timeout=60)
    summary = directory.summary()
    assert summary is not None
    assert undisturbed is not None
    assert client.asked == 4
    assert summary["theta_sha256"] == undisturbed["theta_sha256"]
    assert [record["clients"] for record in directory.rounds()] == [4, 4, 4]
    lines = [record.message for record in caplog.records if "waiting for them" in record.message]
    assert len(lines) == 3
    said = "round 2: the updates of 2 clients could be used, 3 are needed (quorum); missing: "
    assert said + "partition-1 (NO_REPLY), partition-2 (NO_REPLY); waiting" in lines[0]


def test_without_a_quorum_the_others_go_on(tmp_path: Path) -> None:
    directory = ran(tmp_path / "x", Away(attempts=1))
    assert [record["clients"] for record in directory.rounds()] == [4, 2, 4]


def test_a_quorum_that_does_not_come_ends_the_run_in_time_and_can_be_resumed(
    tmp_path: Path,
) -> None:
    started = time.monotonic()
    with pytest.raises(
        QuorumError, match=r"round 2: .* after 0.1 s \(quorum_timeout\); .*--resume"
    ):
        ran(tmp_path / "x", Away(attempts=10**9), quorum=3, quorum_timeout=0.1)
    assert time.monotonic() - started < 30
    directory = RunDirectory(tmp_path / "x")
    assert directory.summary() is None
    state = directory.newest_state().state
    assert state is not None
    assert state.round == len(directory.rounds()) == 1


def test_a_quorum_above_the_cohort_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"quorum = 5, but a round has 4 clients"):
        resolve(SETTINGS | {"quorum": 5})


# --- the deadline


class Slow(InProcessGrid):
    """Node 3 answers when it is asked for the third time; node 4 never."""

    pulled = 0
    pushed: list[float]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        self.pushed = [message.metadata.ttl for message in sent]
        return super().push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulled += 1
        ready = []
        for name in message_ids:
            node = self._waiting[name].metadata.dst_node_id
            if node == 2 or (node == 3 and self.pulled >= 3):
                ready.append(name)
        return super().pull_messages(ready)


def grid_of(timeout: float) -> tuple[Slow, list[Message], float]:
    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    grid = Slow(answer, 3, {})  # type: ignore[arg-type]
    messages = [Message(RecordDict(), node, "train") for node in (2, 3, 4)]
    started = time.monotonic()
    replies = MeteredGrid(grid).send_and_receive(messages, timeout=timeout)
    return grid, list(replies), time.monotonic() - started


def test_replies_are_collected_until_the_deadline_and_messages_do_not_outlive_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9 * time.monotonic())  # a clock that jumps
    grid, replies, seconds = grid_of(0.6)
    assert [reply.metadata.src_node_id for reply in replies] == [2, 3]
    assert 0.6 <= seconds < 2.0
    assert grid.pushed == [0.6, 0.6, 0.6]


def test_a_deadline_that_is_over_at_once_still_looks_once() -> None:
    _, replies, seconds = grid_of(1e-6)
    assert [reply.metadata.src_node_id for reply in replies] == [2]
    assert seconds < 0.5
