"""The state of a run on disk: what is loaded is what lived, and training goes on from it."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from flwr.app import Context, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.client.memory import save_memories
from fedmaml.config import RunConfig, resolve, to_run_config
from fedmaml.core.errors import RunDirectoryError
from fedmaml.core.params import MetaParams, sha256
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.state import RunState
from fedmaml.server.app import flower_strategy, run_state
from fedmaml.server.cohort import RollCall, call_roll
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.model_selection import Chosen
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
    roll_call: RollCall
    strategy: FlowerStrategy
    config: RunConfig

    def train(self, after: int, until: int) -> None:
        config = dataclasses.replace(self.config, rounds=until)
        metered = MeteredGrid(self.grid)
        for record in run_rounds(self.strategy, metered, self.roll_call, config, after):
            assert record.clients == self.config.clients

    def state(self, round: int) -> RunState:
        chosen = Chosen(round, self.strategy.state.meta)
        return run_state(round, self.strategy, self.roll_call, chosen, self.grid)


def live(settings: dict[str, Any]) -> Live:
    base = {"scenario": "digits", "rounds": 6, "clients": 7, "nodes": 2, "engine": "loop"}
    config = resolve(base | settings)
    grid = InProcessGrid(client_app, config.nodes, to_run_config(config, Path("x")))
    roll_call = call_roll(grid, config.nodes, config.timeout)
    strategy = flower_strategy(config, config.make_problem(), roll_call)
    return Live(grid, roll_call, strategy, config)


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


@pytest.mark.parametrize("case", CASES)
def test_rounds_from_a_loaded_state_are_those_of_a_run_that_went_on(
    case: str, tmp_path: Path
) -> None:
    whole = live(CASES[case])
    whole.train(0, 6)

    first = live(CASES[case])
    first.train(0, 3)
    directory = folder(tmp_path / "x", first.config)
    directory.save_state(lambda: first.state(3))
    loaded = RunDirectory(tmp_path / "x").load_state()
    assert identical(loaded, ordered(first.state(3)))
    assert bool(loaded.memories) == case.startswith("memories")

    second = live(CASES[case])
    second.strategy.state = loaded.server
    assert loaded.memories is not None
    for part, state in enumerate(second.grid.node_states()):
        mine = {n: memory for n, memory in loaded.memories.items() if n % 2 == part}
        save_memories(Context(1, 2, {}, state, {}), mine)
    second.train(loaded.round, 6)
    assert sha256(second.strategy.state.meta) == sha256(whole.strategy.state.meta)
    assert identical(second.state(6).server, whole.state(6).server)
    assert identical(ordered(second.state(6)).memories, ordered(whole.state(6)).memories)
    assert sha256(loaded.server.meta) != sha256(whole.strategy.state.meta)


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
    ],
)
def test_every_value_comes_back_as_it_was(changes: dict[str, Any], tmp_path: Path) -> None:
    state = mixed_state(**changes)
    directory = folder(tmp_path / "x", resolve({"scenario": "quadratic"}))
    directory.save_state(lambda: state)
    loaded = directory.load_state()
    if state.memories:
        assert list(loaded.memories or {}) == [2, 5, 9]
        state = ordered(state)
    assert identical(loaded, state)


def test_a_run_leaves_the_state_of_its_last_round(tmp_path: Path) -> None:
    config = resolve(
        {
            "scenario": "digits", "strategy": "fomaml", "rounds": 4, "clients": 5,
            "evaluation.every": 1, "evaluation.select": "best", "outer.lr": 5.0,
            "task.validation_clients": 4, "task.test_clients": 4,
        }
    )  # fmt: skip
    summary = execute(config, tmp_path / "x")
    state = RunDirectory(tmp_path / "x").load_state()
    assert (state.round, state.server.finished_rounds) == (4, 4)
    assert state.memories == {}
    assert state.best_round == summary["evaluated_round"]
    assert state.best_validation == summary["selected_validation"]
    assert sha256(state.best_meta) == summary["theta_sha256"]
    assert summary["evaluated_round"] < 4  # the rate is far too high, so that it got worse
    assert sha256(state.server.meta) != summary["theta_sha256"]


def test_a_grid_without_nodes_in_this_process_leaves_memories_to_the_nodes() -> None:
    run = live(CASES["memories"])
    chosen = Chosen(0, run.strategy.state.meta)
    elsewhere = MeteredGrid(run.grid)  # like Flower's own, it offers no states of nodes
    assert run_state(0, run.strategy, run.roll_call, chosen, elsewhere).memories is None
    assert run_state(0, run.strategy, run.roll_call, chosen, run.grid).memories == {}


def test_saving_takes_a_fiftieth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    directory = folder(tmp_path / "x", resolve({"scenario": "quadratic"}))
    made: list[float] = []

    def slowly() -> RunState:
        made.append(now[0])
        now[0] += 0.1
        return mixed_state()

    while now[0] < 30:
        directory.save_state(slowly, at_most_every=1.0)
        now[0] += 0.01
    # The first after a second; then the pause is fifty times the tenth of a second that it took.
    assert made == pytest.approx([1.0, 6.1, 11.2, 16.3, 21.4, 26.5], abs=0.1)
    directory.save_state(slowly)
    assert len(made) == 7


def test_a_state_that_cannot_be_used_is_refused_with_the_cure(tmp_path: Path) -> None:
    directory = folder(tmp_path / "x", resolve({"scenario": "quadratic"}))
    with pytest.raises(RunDirectoryError, match=r"is not there: .*run it again: fedmaml run"):
        directory.load_state()
    directory.save_state(mixed_state)
    file = tmp_path / "x" / "state.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunDirectoryError, match=r"is damaged \(.*run it again: fedmaml run"):
        directory.load_state()
    file.write_bytes(content)
    config = tmp_path / "x" / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(RunDirectoryError, match="belongs to another configuration"):
        directory.load_state()


def test_a_run_that_is_overwritten_takes_its_state_along(tmp_path: Path) -> None:
    config = resolve({"scenario": "quadratic"})
    directory = folder(tmp_path / "x", config)
    directory.save_state(mixed_state)
    directory.create(config, force=True)
    assert not (tmp_path / "x" / "state.safetensors").exists()


def test_states_of_several_nodes_are_one(tmp_path: Path) -> None:
    run = live(CASES["memories"])
    run.train(0, 2)
    states = run.grid.node_states()
    assert all(isinstance(state, RecordDict) and len(state) for state in states)
    memories = run.state(2).memories
    assert memories is not None
    assert {client % 2 for client in memories} == {0, 1}
