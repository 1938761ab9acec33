"""The journal of a run: what is read is what lived, and damage is found."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from fedmaml.client.app import app as client_app
from fedmaml.config import RunConfig, resolve, to_run_config
from fedmaml.core.costs import Computation, Cost
from fedmaml.core.counters import Units
from fedmaml.core.errors import RunDirectoryError
from fedmaml.core.params import MetaParams, sha256
from fedmaml.core.records import RoundRecord
from fedmaml.core.requests import Used
from fedmaml.running import execute
from fedmaml.runs.chain import NEWEST, PREVIOUS, Lines
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.journal import Journal
from fedmaml.runs.state import RunState, Totals
from fedmaml.runs.verifying import verify
from fedmaml.server.app import flower_strategy
from fedmaml.server.cohort import RollCall
from fedmaml.server.continuing import after_round, beginning, take_up, whole_state
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.roll import Roll, call_roll
from fedmaml.server.rounds import run_rounds
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.strategies.base import ServerState

LARGE = 2**24 + 1
CASES = {
    "adam": {"strategy": "fomaml", "outer.optimizer": "adam"},
    "yogi": {"strategy": "reptile", "outer.optimizer": "yogi", "outer.schedule": "cosine"},
    "momentum": {"strategy": "fedavg", "outer.optimizer": "sgd", "outer.momentum": 0.9},
    "two groups": {"strategy": "meta_sgd"},
    "memories": {"strategy": "fedrep"},
    "memories and error feedback": {
        "strategy": "fedrep", "compression.method": "top-k", "compression.fraction": 0.1,
        "compression.error_feedback": True,
    },
}  # fmt: skip


class Live(NamedTuple):
    """A run in this process, between rounds."""

    grid: InProcessGrid
    metered: MeteredGrid
    roll_call: RollCall
    strategy: FlowerStrategy
    config: RunConfig

    def train(self, state: RunState, until: int) -> RunState:
        """Return the state after some rounds, which are not written anywhere."""
        config = dataclasses.replace(self.config, rounds=until)
        for record in run_rounds(
            self.strategy, self.metered, Roll(self.roll_call), config, state.round
        ):
            assert record.clients == self.config.clients
            state = after_round(
                state, record, state.lines, self.strategy, self.metered, 1.0,
                config.make_problem().metrics[0], best=False,
            )  # fmt: skip
        return whole_state(state, self.metered, self.roll_call, self.grid)


def live(settings: dict[str, Any]) -> Live:
    base = {"scenario": "digits", "rounds": 6, "clients": 7, "nodes": 2, "engine": "loop"}
    config = resolve(base | settings)
    grid = InProcessGrid(client_app, config.nodes, to_run_config(config, Path("x")))
    roll_call = call_roll(grid, config.nodes, config.timeout)
    strategy = flower_strategy(config, config.make_problem(), roll_call)
    return Live(grid, MeteredGrid(grid), roll_call, strategy, config)


def folder(path: Path, config: RunConfig) -> RunDirectory:
    directory = RunDirectory(path)
    directory.create(config)
    return directory


def identical(left: Any, right: Any) -> bool:
    """Tell whether two trees agree in names, their order, types, shapes and bits."""
    if isinstance(left, torch.Tensor):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and left.contiguous().numpy().tobytes() == right.contiguous().numpy().tobytes()
        )
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[k], right[k]) for k in left)
    if dataclasses.is_dataclass(left):
        names = [item.name for item in dataclasses.fields(left)]
        return all(identical(getattr(left, n), getattr(right, n)) for n in names)
    return bool(left == right)


def ordered(state: RunState) -> RunState:
    """The same state with clients in ascending order, as they are stored."""
    assert state.memories is not None
    return dataclasses.replace(state, memories=dict(sorted(state.memories.items())))


@contextmanager
def committed(folder: RunDirectory, *states: RunState) -> Iterator[Journal]:
    with folder.journal() as journal:
        for state in states:
            journal.commit(lambda state=state: state)  # type: ignore[misc]
        yield journal


def loaded(directory: RunDirectory) -> RunState:
    found = directory.newest_state()
    assert found.state is not None
    assert not found.damaged
    return found.state


@pytest.mark.parametrize("case", CASES)
def test_rounds_from_a_loaded_state_are_those_of_a_run_that_went_on(
    case: str, tmp_path: Path
) -> None:
    first, whole = live(CASES[case]), live(CASES[case])
    directory = folder(tmp_path / "x", first.config)
    start = beginning(whole.strategy, whole.roll_call, directory.anchor())
    expected = whole.train(start, 6)

    middle = first.train(start, 3)
    with committed(directory, middle):
        pass
    read = loaded(directory)
    assert identical(read, ordered(middle))
    assert bool(read.memories) == bool(read.used) == case.startswith("memories")

    second = live(CASES[case])
    state, roll_call = take_up(read, second.strategy, second.metered, second.roll_call, second.grid)
    assert state.totals.resumed_after == (3,)
    ended = second._replace(roll_call=roll_call).train(state, 6)
    assert identical(timeless(ended), timeless(expected))
    assert sha256(read.server.meta) != sha256(ended.server.meta)


def timeless(state: RunState) -> RunState:
    """The same state with clients in order, without times and interruptions."""
    totals = state.totals
    cost = dataclasses.replace(totals.cost, seconds_clients=0.0, seconds_server=0.0)
    traffic = {k: {**v, "seconds": 0.0} for k, v in totals.traffic.items()}
    used = dict(sorted(state.used.items()))
    state = dataclasses.replace(state, used=used)
    return ordered(state).with_totals(cost=cost, traffic=traffic, resumed_after=())


def mixed_state(**changes: Any) -> RunState:
    meta: MetaParams = {"theta": {"z": torch.tensor([0.1, -0.0]), "a": torch.ones(1, 2)}}
    memory = {"w": torch.tensor([1 / 3]), "steps": torch.tensor(LARGE)}
    memories = {
        2: memory,
        9: {"w": torch.tensor([float("nan")]), "steps": torch.tensor(-LARGE)},
        5: {"residual/theta": torch.zeros(3, dtype=torch.float64)},
    }
    optimizer = {"exp_avg": torch.arange(4.0), "step": torch.tensor(2.0)}
    state = RunState(
        round=4,
        server=ServerState(meta, optimizer, 3),
        shared_statistics={"count": torch.tensor([LARGE]), "sum": torch.ones(2).double()},
        memories=memories,
        best_round=4,
        best_meta=meta,
        best_validation=0.1 + 0.2,
        used={2: Used(3, "f" * 16), 9: Used(1, "0" * 15 + "a"), 5: Used(4, "8" * 16)},
        costs={"update of 3": Computation(2**40, 7)},
        totals=Totals(
            updates=9,
            left_out=1,
            cost=Cost(clients=10, counters={"steps": Units(1, 2)}),
            engines={"vmap": 9},
            traffic={"train": {"messages_down": 4, "seconds": 0.1}},
            sizes={"('train', 1)": 17},
            seconds=0.3,
            resumed_after=(2,),
            nodes=("2", "3"),
        ),
    )
    return dataclasses.replace(state, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memories": None},
        {"memories": {}},
        {"best_validation": None},
        {"best_round": 2, "best_meta": {"theta": {"z": torch.zeros(2), "a": torch.zeros(1, 2)}}},
        {"shared_statistics": {}},
        {"senders": (3, 5)},
        {"used": {}, "memories": {}},
    ],
)
def test_every_value_comes_back_as_it_was(changes: dict[str, Any], tmp_path: Path) -> None:
    directory = folder(tmp_path / "x", resolve({"scenario": "quadratic"}))
    lines = Lines(sha256=directory.anchor())
    state = mixed_state(**changes, lines=lines)
    with committed(directory, state):
        pass
    read = loaded(directory)
    if state.memories:
        assert list(read.memories or {}) == [2, 5, 9]
        state = ordered(state)
    assert identical(read, state)


def test_a_run_leaves_the_state_of_its_last_round(tmp_path: Path) -> None:
    config = resolve(
        {
            "scenario": "digits", "strategy": "fomaml", "rounds": 4, "clients": 5,
            "evaluation.every": 1, "evaluation.select": "best", "outer.lr": 5.0,
            "task.validation_clients": 4, "task.test_clients": 4,
        }
    )  # fmt: skip
    summary = execute(config, tmp_path / "x")
    state = loaded(RunDirectory(tmp_path / "x"))
    assert (state.round, state.server.finished_rounds) == (4, 4)
    assert state.memories == {}
    assert state.best_round == summary["evaluated_round"]
    assert state.best_validation == summary["selected_validation"]
    assert sha256(state.best_meta) == summary["theta_sha256"]
    assert summary["evaluated_round"] < 4  # the rate is far too high, so that it got worse
    assert sha256(state.server.meta) != summary["theta_sha256"]


def test_a_grid_without_nodes_in_this_process_leaves_memories_to_the_nodes() -> None:
    run = live(CASES["memories"])
    state = beginning(run.strategy, run.roll_call, "")
    # Like Flower's own, a MeteredGrid offers no states of nodes.
    assert whole_state(state, run.metered, run.roll_call, run.metered).memories is None
    assert whole_state(state, run.metered, run.roll_call, run.grid).memories == {}


def test_commits_take_a_fiftieth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    directory = folder(tmp_path / "x", resolve({"scenario": "quadratic"}))
    made: list[float] = []

    def slowly() -> RunState:
        made.append(now[0])
        now[0] += 0.1
        return mixed_state(round=len(made))

    with directory.journal() as journal:
        while now[0] < 30:
            journal.commit(slowly, at_most_every=1.0)
            now[0] += 0.01
        # The first after a second; then the pause is fifty times the tenth of a second it took.
        assert made == pytest.approx([1.0, 6.1, 11.2, 16.3, 21.4, 26.5], abs=0.1)
        journal.commit(slowly)
    assert len(made) == 7


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture
def two_states(tmp_path: Path) -> RunDirectory:
    """Three rounds, and states after the second and the third."""
    directory = folder(tmp_path / "x", resolve({"scenario": "quadratic", "rounds": 5}))
    with directory.journal() as journal:
        for number in (1, 2, 3):
            lines = journal.append(RoundRecord(number, 1, 1, 1.0, {}, (), 0.1, 0.1))
            state = mixed_state(round=number, best_round=number, lines=lines)
            if number > 1:
                journal.commit(lambda state=state: state)  # type: ignore[misc]
    assert loaded(directory).round == 3
    return directory


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(position: float) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        at = min(int(position * len(content)), len(content) - 1)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return flip


DAMAGE: list[Callable[[bytes], bytes]] = [
    cut, lambda _: b"", lambda content: content + b"x", *(flipped(i / 20) for i in range(21)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_the_state_before_a_damaged_one_is_used_and_it_is_said(
    number: int, two_states: RunDirectory
) -> None:
    newest = two_states.path / NEWEST
    newest.write_bytes(DAMAGE[number](newest.read_bytes()))
    found = two_states.newest_state()
    assert found.state is not None
    assert found.state.round == 2
    assert list(found.damaged) == [NEWEST]
    with pytest.raises(RunDirectoryError, match=r"journal.safetensors is damaged: "):
        verify(two_states)
    with two_states.entered():
        two_states.reopen()
    assert not newest.exists()
    assert len(two_states.rounds()) == 2
    assert loaded(two_states).round == 2
    previous = two_states.path / PREVIOUS
    previous.write_bytes(DAMAGE[number](previous.read_bytes()))
    with pytest.raises(RunDirectoryError, match=r"no state in .* is sound .*run it again: fedmaml"):
        two_states.newest_state()


def test_a_state_whose_lines_are_gone_or_changed_is_not_used(two_states: RunDirectory) -> None:
    lines = two_states.path / "rounds.jsonl"
    content = lines.read_bytes()
    lines.write_bytes(content[:-20])  # the third line is cut short
    found = two_states.newest_state()
    assert found.state is not None
    assert found.state.round == 2
    assert "the 3 lines of rounds.jsonl that belong to it are not there" in found.damaged[NEWEST]
    lines.write_bytes(content.replace(b'"round": 1,', b'"round": 7,'))
    words = r"no state .* line 2 of .*rounds.jsonl does not follow from line 1"
    with pytest.raises(RunDirectoryError, match=words):
        two_states.newest_state()


def test_a_state_without_its_newest_file_is_the_one_before(two_states: RunDirectory) -> None:
    (two_states.path / NEWEST).unlink()
    assert loaded(two_states).round == 2


def test_a_changed_configuration_is_found(two_states: RunDirectory) -> None:
    config = two_states.path / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(RunDirectoryError, match=r"config.toml was changed after the run began"):
        two_states.newest_state()


def test_a_run_that_is_overwritten_takes_its_journal_along(two_states: RunDirectory) -> None:
    two_states.create(two_states.config(), force=True)
    assert sorted(path.name for path in two_states.path.iterdir()) == ["config.toml"]


# --- the chain -----------------------------------------------------------------------------------


def test_a_run_without_rounds_is_what_it_says(tmp_path: Path) -> None:
    settings = {"scenario": "digits", "strategy": "local", "inner.steps": 2, "clients": 4}
    execute(resolve(settings), tmp_path)
    assert "0 lines of rounds.jsonl follow from each other" in verify(RunDirectory(tmp_path))


def test_every_line_that_is_changed_removed_or_added_is_found(tmp_path: Path) -> None:
    config = resolve({"scenario": "quadratic", "strategy": "fomaml", "rounds": 4})
    execute(config, tmp_path / "x")
    directory = RunDirectory(tmp_path / "x")
    assert "4 lines of rounds.jsonl follow from each other" in verify(directory)
    path = tmp_path / "x" / "rounds.jsonl"
    content = path.read_text()
    lines = content.splitlines(keepends=True)
    changed = [
        content.replace('"cohort"', '"Cohort"', 1),
        "".join(lines[1:]),
        "".join(lines[:-1]),
        "".join([lines[0], *lines[2:]]),
        content + lines[-1],
        "".join([lines[1], lines[0], *lines[2:]]),
        content[:-5],
        lines[-1].join(["".join(lines[:-1]), ""]).replace('"round": 4', '"round": 5'),
    ]
    for text in changed:
        path.write_text(text)
        with pytest.raises(RunDirectoryError, match="changed, removed or added"):
            verify(directory)
    path.write_text(content)
    theta = tmp_path / "x" / "theta.safetensors"
    theta.write_bytes(flipped(1.0)(theta.read_bytes()))
    with pytest.raises(RunDirectoryError, match=r"theta.safetensors .*SHA-256"):
        verify(directory)
