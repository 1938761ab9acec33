"""A client whose update was not used goes on as if it had been absent, whatever it remembers."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.client.memory import load_memories, save_memories, without_memory
from fedmaml.config import resolve, to_run_config
from fedmaml.core.requests import NEVER, Used
from fedmaml.runs.directory import TOKEN, RunDirectory
from fedmaml.server.app import app as server_app
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.simulations.backends import IN_JOURNAL, MEMORIES
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.strategies import CATALOGUE
from tests.catalogue import FOUNDING, slow_unless
from tests.conftest import NEED_CLASSES, READ_TARGETS, REGRESSORS
from tests.killed import outcome
from tests.server.test_bad_replies import BAD_NODE, absent, filled, raising, ran, saying, weighing

REFUSED = (*NEED_CLASSES, *READ_TARGETS, *REGRESSORS)
FEEDBACK = [
    {"strategy": strategy, "compression.method": method, "compression.error_feedback": True}
    for strategy in ("fomaml", "fedrep")
    for method in ("top-k", "qsgd-4", "float16")
]
KEEPERS = ("fedrep", "fedbabu", "ditto", "apfl", "scaffold")
"""Strategies whose clients keep a memory."""

STRATEGIES = [
    name for name, cls in CATALOGUE.items() if cls.facts.has_rounds and name not in REFUSED
]
EVERY = [
    {"strategy": strategy, "compression.method": method, "compression.error_feedback": feedback}
    for strategy in STRATEGIES
    for method in ("top-k", "qsgd-8", "qsgd-4", "float16")
    for feedback in (True, False)
]
CASES = [
    *(slow_unless(name in FOUNDING, {"strategy": name}) for name in STRATEGIES),
    *(slow_unless(True, case) for case in FEEDBACK),
    *(slow_unless(False, case) for case in EVERY if case not in FEEDBACK),
]
LEFT_OUT = {
    "lost or late": absent,
    "refused": filled(float("nan")),
    "refused for its weight": weighing([-1.0]),
    "of another base": saying(base="0" * 16),
    "its node raises after computing": raising,
}
BAD_ROUNDS = (2, 3)
Tamper = Callable[[Message, Message], Message]


def rounds_of(out: Path, case: dict[str, Any], tamper: Tamper | None) -> list[Any]:
    """Run four rounds; in two of them a client is tampered with, or (None) not even asked."""

    def client(message: Message, context: Context) -> Message:
        metadata = message.metadata
        bad = metadata.message_type == "train" and metadata.dst_node_id == BAD_NODE
        if bad and message.content.config_records["request"]["round"] in BAD_ROUNDS:
            if tamper is None:
                return absent(message, message)
            return tamper(message, client_app(message=message, context=context))
        return client_app(message=message, context=context)

    # The validation clients of "within" are training clients, so that memories are evaluated, too.
    # A sparse update may be many times as large as the others: that is no fault here.
    settings = case | {"rounds": 4, "aggregation.largest_norm": 0.0}
    summary = ran(out, client, settings)
    assert [record["clients"] for record in RunDirectory(out).rounds()] == [5, 4, 4, 5]
    return [summary["theta_sha256"], RunDirectory(out).clients()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_a_client_whose_reply_was_left_out_was_absent(case: dict[str, Any], tmp_path: Path) -> None:
    gone = rounds_of(tmp_path / "gone", case, None)
    assert rounds_of(tmp_path / "lost", case, absent) == gone
    if case.get("compression.error_feedback") or case["strategy"] in KEEPERS:
        remembering = [name for name in LEFT_OUT if name != "lost or late"]
        compressed = "compression.method" in case
        for name in remembering:
            if not (compressed and name == "refused"):  # there is no NaN among codes
                assert rounds_of(tmp_path / name, case, LEFT_OUT[name]) == gone, name


# --- the two slots -------------------------------------------------------------------------------

INITIAL = {"head": torch.zeros(1)}


def number(value: float) -> dict[str, torch.Tensor]:
    return {"head": torch.tensor([value])}


def trained(context: Context, used: Used, made: Used) -> float | None:
    """Train client 7 for a round: its memory grows by the number of the round."""
    memories = load_memories(context, [7], INITIAL, {7: used})
    if 7 not in memories:
        assert without_memory([7], memories)[0].reason == "MEMORY"
        return None
    before = float(memories[7]["head"])
    save_memories(context, {7: number(before + made.round)}, made, {7: used})
    return before


@pytest.fixture(params=["context", "files"])
def context(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Context:
    if request.param == "files":
        monkeypatch.setenv(MEMORIES, str(tmp_path / "memories"))
    return Context(1, 1, {}, RecordDict(), {})


def kept(context: Context) -> int:
    """Return how many memories a node keeps."""
    folder = os.environ.get(MEMORIES)
    return len(list(Path(folder).iterdir())) if folder else len(context.state) // 2


def used(*rounds: int) -> Sequence[Used]:
    return [Used(round, f"base{round}") if round else NEVER for round in rounds]


def test_a_client_starts_from_the_last_used_update(context: Context) -> None:
    never, one, two, three, four = used(0, 1, 2, 3, 4)
    assert trained(context, never, one) == 0
    assert trained(context, one, two) == 1
    assert trained(context, one, three) == 1  # 2 was not used
    assert trained(context, three, four) == 4
    assert trained(context, one, four) is None  # two updates ago
    assert trained(context, two, four) is None  # was dropped
    assert trained(context, never, four) == 0  # it starts anew
    assert kept(context) == 1


def test_a_round_that_is_computed_again_starts_where_it_did(context: Context) -> None:
    never, one, two = used(0, 1, 2)
    trained(context, never, one)
    for _ in range(3):
        assert trained(context, one, two) == 1
    assert trained(context, two, Used(3)) == 3


def test_a_memory_of_another_run_is_not_taken(context: Context) -> None:
    trained(context, NEVER, Used(1, "base"))
    assert trained(context, Used(1, "another"), Used(2)) is None


def test_a_node_in_the_servers_process_keeps_nothing_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEMORIES, str(tmp_path / "memories"))
    context = Context(1, 1, {IN_JOURNAL: True}, RecordDict(), {})
    assert trained(context, NEVER, Used(1, "base")) == 0
    assert not (tmp_path / "memories").exists()
    assert len(context.state) == 2  # an array and its label


def test_a_damaged_memory_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(MEMORIES, str(tmp_path / "memories"))
    context, (one, two) = Context(1, 1, {}, RecordDict(), {}), used(1, 2)
    trained(context, NEVER, one)
    (path,) = (tmp_path / "memories").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 61):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert trained(context, one, two) is None, bit
    assert f"{path} is damaged, so this memory is lost" in caplog.text


def test_a_new_flower_run_finds_the_memories_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes lose their contexts; the grid shows no states of nodes, as Flower's own do not."""

    class Elsewhere(InProcessGrid):
        node_states = None  # type: ignore[assignment]

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            for context in self._contexts.values():
                context.node_config.pop(IN_JOURNAL, None)
            return super().push_messages(messages)

    whole_step = FlowerStrategy.step

    def go_on(out: Path, until: int) -> None:
        def step(self: FlowerStrategy, number: int, replies: Any) -> Any:
            if number == until:  # all clients have computed by now
                raise KeyboardInterrupt
            return whole_step(self, number, replies)

        monkeypatch.setattr(FlowerStrategy, "step", step)
        monkeypatch.setenv(MEMORIES, str(out / "memories"))
        directory = RunDirectory(out)
        with directory.entered() as token:
            if directory.rounds():
                directory.reopen()
            else:
                directory.create(config)
            run_config = to_run_config(config, out) | {TOKEN: token}
            grid = Elsewhere(client_app, config.nodes, run_config)
            server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))

    config = resolve(
        {
            "scenario": "digits", "strategy": "fedrep", "rounds": 5, "nodes": 3, "clients": 4,
            "compression.method": "top-k", "task.train_clients": 6, "task.validation_clients": 0,
            "task.test_clients": 4,
        }
    )  # fmt: skip
    outcomes = []
    for name, interrupts in (("whole", []), ("cut", [3, 5])):
        out = tmp_path / name
        for until in interrupts:
            with pytest.raises(KeyboardInterrupt):
                go_on(out, until)
        go_on(out, 0)
        assert len(list((out / "memories").iterdir())) > 4
        outcomes.append(outcome(out))
    assert outcomes[0] == outcomes[1]
    assert RunDirectory(out).summary()["resumed_after"] == [2, 4]  # type: ignore[index]


def test_a_node_that_was_started_again_says_so_and_its_clients_start_anew(tmp_path: Path) -> None:
    """The node forgets everything between rounds 2 and 3; round 4 is its first one again."""

    def client(message: Message, context: Context) -> Message:
        is_train = message.metadata.message_type == "train"
        bad = is_train and message.metadata.dst_node_id == BAD_NODE
        if bad and message.content.config_records["request"]["round"] == 3:
            context.state = RecordDict()
        return client_app(message=message, context=context)

    ran(tmp_path / "x", client, {"strategy": "fedrep", "rounds": 4})
    records = RunDirectory(tmp_path / "x").rounds()
    assert [record["clients"] for record in records] == [5, 5, 4, 5]
    (rejection,) = records[2]["rejected"]
    assert (rejection["reason"], rejection["clients"]) == ("MEMORY", [1])
    assert (rejection["node"], bool(rejection["detail"])) == (str(BAD_NODE), True)
