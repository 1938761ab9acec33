"""A bad answer to the roll call, and sites that go and come back: nobody else is affected."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.config import resolve, to_run_config
from fedmaml.core.errors import BackendError
from fedmaml.messages.checks import REPLY, seal
from fedmaml.messages.roll_call import read_roll_call_reply
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.app import app as server_app
from fedmaml.server.cohort import RollCall
from fedmaml.server.roll import Roll, call_roll
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.simulations.datasets.moments import sums, unsound_sums

NODES = 5
BAD_NODE = 4
Tamper = Callable[[RecordDict], None]


class Sites(InProcessGrid):
    """Nodes of which some are away."""

    away: frozenset[int] = frozenset()

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node not in self.away]


def sites(
    answer: Callable[[Message, Context], Message], settings: dict[str, Any], nodes: int = NODES
) -> Sites:
    config = resolve({"scenario": "digits", "strategy": "fomaml"} | settings)
    return Sites(answer, nodes, to_run_config(config, Path("unused")))  # type: ignore[arg-type]


def called(tamper: Tamper | None, settings: dict[str, Any]) -> RollCall:
    """Call the roll of five nodes, of which one tampers with its answer, or raises."""

    def answer(message: Message, context: Context) -> Message:
        if tamper is None and message.metadata.dst_node_id == BAD_NODE:
            return Message(Error(5, "gone"), reply_to=message)
        reply = client_app(message=message, context=context)
        if tamper is not None and message.metadata.dst_node_id == BAD_NODE:
            tamper(reply.content)
            if REPLY in reply.content:
                seal(reply.content)
        return reply

    config = resolve({"scenario": "digits", "strategy": "fomaml"} | settings)
    check = config.make_scenario().unsound_statistics
    return call_roll(sites(answer, settings), NODES, 5.0, check)


def hosting(*numbers: Any) -> Tamper:
    def tamper(content: RecordDict) -> None:
        content.config_records["hosted"]["train"] = list(numbers)

    return tamper


def saying(**entries: Any) -> Tamper:
    def tamper(content: RecordDict) -> None:
        for key, value in entries.items():
            content.config_records[REPLY][key] = value

    return tamper


def without(record: str) -> Tamper:
    def tamper(content: RecordDict) -> None:
        del content[record]

    return tamper


def many_splits(content: RecordDict) -> None:
    hosted = content.config_records["hosted"]
    for number in range(100_000):
        hosted[f"split{number}"] = [0, 1, 1]


BAD: dict[str, Tamper] = {
    "step 0": hosting(2, 60, 0),
    "step 1e9": hosting(2, 60, 10**9),
    "another step": hosting(2, 60, 7),
    "3e8 clients": hosting(0, 300_000_000, 1),
    "start > stop": hosting(60, 2, 5),
    "start < 0": hosting(-3, 60, 5),
    "2^62": hosting(2, 2**62, 5),
    "no numbers": hosting(2.0, 60.0, 5.0),
    "two numbers": hosting(2, 60),
    "100,000 splits": many_splits,
    "another version": saying(version="0.0.1"),
    "negative examples": saying(examples=-1),
    "1e12 examples": saying(examples=10**12),
    "a name of 1 MB": saying(name="x" * 10**6),
    "a name that is no text": saying(name=7),
    "no clients": without("hosted"),
    "no reply": without(REPLY),
}


@pytest.mark.parametrize("name", BAD)
def test_a_node_that_says_the_impossible_is_left_out_at_once(name: str) -> None:
    started = time.process_time()
    roll_call = called(BAD[name], {})
    assert time.process_time() - started < 2.0
    assert list(roll_call.refused) == [BAD_NODE]
    gone = called(None, {})
    assert roll_call.hosts == gone.hosts
    assert roll_call.population("train") == gone.population("train")
    assert list(roll_call.population("train")) == [n for n in range(60) if n % 5 != 2]


def test_if_nobody_says_anything_sound_the_reason_is_the_error() -> None:
    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict({"x": ArrayRecord({})}), reply_to=message)

    with pytest.raises(BackendError, match=r"no node can take part; node 2: .*'hosted' is missing"):
        call_roll(sites(answer, {}), NODES, 5.0)


def test_a_site_that_leaves_and_comes_back_takes_part_again(tmp_path: Path) -> None:
    """It is away in round 2, and another node from round 3 on."""

    def served(out: Path, comes_back_as: int) -> RunDirectory:
        def answer(message: Message, context: Context) -> Message:
            leaves = (
                message.metadata.message_type == "train"
                and message.metadata.dst_node_id == 3
                and message.content.config_records["request"]["round"] == 2
            )
            if leaves:
                grid._contexts[comes_back_as] = grid._contexts.pop(3)
                return Message(Error(5, "gone"), reply_to=message)
            return client_app(message=message, context=context)

        config = resolve(
            {"scenario": "digits", "strategy": "fomaml", "rounds": 4, "nodes": 3, "clients": 0,
             "task.train_clients": 6, "task.validation_clients": 0, "task.test_clients": 3}
        )  # fmt: skip
        RunDirectory(out).create(config)
        run_config = to_run_config(config, out)
        grid = InProcessGrid(answer, 3, run_config)  # type: ignore[arg-type]
        server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))
        return RunDirectory(out)

    stayed, returned = served(tmp_path / "stayed", 3), served(tmp_path / "returned", 99)
    rounds = returned.rounds()
    assert [record["clients"] for record in rounds] == [6, 4, 6, 6]
    assert [each["reason"] for each in rounds[1]["rejected"]] == ["NO_REPLY"]
    events = [[(each["what"], each["node"]) for each in r.get("events", ())] for r in rounds]
    assert events[1:] == [[], [("joined", "partition-1")], []]
    summaries = [directory.summary() for directory in (stayed, returned)]
    assert summaries[0] is not None
    assert summaries[1] is not None
    assert summaries[0]["theta_sha256"] == summaries[1]["theta_sha256"]
    assert summaries[1]["clients_evaluated"] == 3


# --- statistics


def with_statistics(change: Callable[[np.ndarray], np.ndarray], name: str = "") -> Tamper:
    def tamper(content: RecordDict) -> None:
        arrays = content.array_records["statistics"]
        content["statistics"] = ArrayRecord(
            {client: Array(change(array.numpy().copy())) for client, array in arrays.items()}
        )

    return tamper


def setting(value: float, at: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[at] = value
        return values

    return change


STATISTICS = {
    "NaN": setting(float("nan"), 3),
    "infinity": setting(float("inf"), 3),
    "1e300": setting(1e300, 3),
    "negative squares": setting(-1.0, -1),
    "negative count": setting(-5.0, 0),
    "half a patient": setting(20.5, 0),
    "int8": lambda values: values.astype(np.int8),
    "float32": lambda values: values.astype(np.float32),
    "too short": lambda values: values[:-1],
    "squares too small for the sum": lambda values: values * np.r_[
        np.ones(2 * len(values) // 3), np.full(len(values) // 3, 1e-3)
    ],
    "1e5 times too large": lambda values: values * np.r_[
        np.ones(len(values) // 3), np.full(len(values) // 3, 1e5), np.full(len(values) // 3, 1e10)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", STATISTICS)
def test_one_bad_hospital_does_not_change_the_features_of_others(name: str, data_dir: Path) -> None:
    settings = {"scenario": "hospitals", "data_dir": str(data_dir.absolute())}
    roll_call = called(with_statistics(STATISTICS[name]), settings)
    gone = called(None, settings)
    assert list(roll_call.refused) == [BAD_NODE]
    assert roll_call.statistics_from == gone.statistics_from
    for key, total in gone.shared_statistics.items():
        assert torch.equal(roll_call.shared_statistics[key], total)


def test_sums_of_data_are_sound_whatever_their_units() -> None:
    drawn = torch.Generator().manual_seed(1)
    rows = {n: torch.randn(20, 4, generator=drawn, dtype=torch.float64) * 10.0**n for n in range(3)}
    constant = {3: torch.full((7, 4), 0.1, dtype=torch.float64), 4: torch.zeros(3, 4).double()}
    assert unsound_sums({client: sums(x) for client, x in (rows | constant).items()}) == {}


# --- sites that come and go


def test_a_site_that_comes_back_as_another_node_takes_its_place() -> None:
    grid = sites(client_app, {}, nodes=3)
    roll = Roll(call_roll(grid, 3, 5.0), grid, 5.0)
    before = roll.call
    assert roll.call_again() == ()
    old, context = 3, grid._contexts.pop(3)
    grid._contexts[99] = context
    (event,) = roll.call_again()
    assert (event.what, event.node) == ("joined", "partition-1")
    assert roll.call.hosts == {2: before.hosts[2], 4: before.hosts[4], 99: before.hosts[old]}
    assert roll.call.population("train") == before.population("train")
    assert roll.call.place("train", [1]) == {99: [1]}
    assert roll.call_again() == ()


def test_a_site_that_comes_late_is_asked_from_then_on() -> None:
    def answer(message: Message, context: Context) -> Message:
        """Host clients that nobody else knows of: 20 in a row."""
        reply = client_app(message=message, context=context)
        first = 20 * (message.metadata.dst_node_id - 2)
        hosting(first, first + 20, 1)(reply.content)
        for split in ("validation", "test"):
            del reply.content.config_records["hosted"][split]
        seal(reply.content)
        return reply

    grid = sites(answer, {}, nodes=3)
    grid.away = frozenset({4})
    roll = Roll(call_roll(grid, 2, 5.0), grid, 5.0)
    assert list(roll.call.population("train")) == list(range(40))
    assert roll.call_again() == ()
    grid.away = frozenset()
    (event,) = roll.call_again()
    assert (event.what, event.node) == ("joined", "partition-2")
    assert list(roll.call.population("train")) == list(range(60))
    assert roll.call.place("train", [55]) == {4: [55]}


@pytest.mark.parametrize("case", ["second of one name", "other clients", "claims a client"])
def test_a_node_that_appears_and_cannot_be_who_it_says_is_refused(case: str) -> None:
    taken = {"name": "partition-1"} if case != "claims a client" else {"name": "new"}

    def answer(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        if message.metadata.dst_node_id == 99:
            saying(**taken)(reply.content)
            if case == "other clients":
                hosting(2, 60, 3)(reply.content)
            seal(reply.content)
        return reply

    grid = sites(answer, {}, nodes=3)
    roll = Roll(call_roll(grid, 3, 5.0), grid, 5.0)
    before = roll.call
    grid._contexts[99] = grid._contexts[3]
    if case == "other clients":
        grid.away = frozenset({3})
    (event,) = roll.call_again()
    assert (event.what, event.node) == ("refused", "99")
    said = {
        "second of one name": "node 3 is online as site partition-1 already",
        "other clients": "hosts other clients than it did",
        "claims a client": "node 3 hosts some of its clients already",
    }
    assert said[case] in event.why
    assert roll.call == before
    assert roll.call_again() == ()


def test_a_flipped_bit_is_refused() -> None:
    grid = sites(client_app, {})
    node = 2
    (reply,) = grid.pull_messages(
        grid.push_messages([Message(RecordDict(), node, "query.roll_call")])
    )
    read_roll_call_reply(reply.content)
    reply.content.config_records["hosted"]["test"][1] += 1
    with pytest.raises(Exception, match="HASH: the body has the SHA-256"):
        read_roll_call_reply(reply.content)
