"""`fedmaml new app`: a Flower app that is small, works as it is, and ends with a run folder."""

import ast
import errno
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import fedmaml as fm
from fedmaml.client.replies import Asked
from fedmaml.core.errors import ConfigurationError, DataError, DiskError
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import RMSE
from fedmaml.core.networks import LinearModel
from fedmaml.core.tasks import Batch, Task
from fedmaml.server import FlowerStrategy
from fedmaml.simulations.backends.flower_processes import (
    CONNECTION,
    ask,
    environment_of,
    offline_environment,
    start_superlink,
)
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.simulations.backends.processes import executable, workspace
from fedmaml.templates import write
from tests.commands import fedmaml

pytestmark = pytest.mark.usefixtures("_catalogues_as_before")

MAX_OWN_LINES = 15


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    task, _ = write("app", "our_wards", tmp_path)
    folder = task.parent.parent
    monkeypatch.syspath_prepend(str(folder))
    before = {*sys.modules}
    yield folder
    for name in {*sys.modules} - before:
        if name.startswith(("our_wards", "test_our_wards")):
            del sys.modules[name]


def own_lines(file: Path) -> int:
    """Count lines of code without imports, docstrings, comments and blank lines."""
    tree = ast.parse(file.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or text:
            skipped |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    lines = enumerate(file.read_text().splitlines(), 1)
    return sum(bool(line.split("#")[0].strip()) and number not in skipped for number, line in lines)


def test_an_app_is_at_most_fifteen_lines(app: Path) -> None:
    counts = {file.name: own_lines(file) for file in (app / "our_wards").glob("*.py")}
    assert counts["client_app.py"] == counts["server_app.py"] == 1
    assert 5 < sum(counts.values()) <= MAX_OWN_LINES, counts


def test_nothing_of_the_template_is_left(app: Path) -> None:
    for file in app.rglob("*"):
        if file.is_file():
            assert not re.search(r"my.?app", file.read_text(), re.IGNORECASE), file


def test_it_passes_its_own_test(app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own: Any = importlib.import_module("test_our_wards")
    own.test_the_scenario_is_sound()
    own.test_the_app_ends_with_a_run_folder(tmp_path, monkeypatch)
    result = fm.load(tmp_path / "run")
    assert [row["client"] for row in result.clients().to_dict("records")] == [6, 7]


def test_commands_take_it(app: Path, tmp_path: Path) -> None:
    few = ("--rounds", "2", "--set", "fomaml:inner.steps=1")
    done = fedmaml("compare", str(app / "our_wards/task.py"), "--strategies", "fomaml", *few,
                   "--seeds", "1", "--out", "compared", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "compared/comparison.md").is_file()
    done = fedmaml("audit", str(app / "our_wards/task.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_not_written_twice(app: Path) -> None:
    with pytest.raises(ConfigurationError, match="our-wards exists; choose another name"):
        write("app", "our_wards", app.parent)


@pytest.mark.flower
def test_flower_packs_it(app: Path, tmp_path: Path) -> None:
    environment = offline_environment(tmp_path / "home")
    command = [executable("flwr", environment), "build", "--app", str(app)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    declared = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert declared["fab-format-version"] == 1


@pytest.mark.flower
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_flwr_run_ends_with_a_run_folder(app: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    federation = "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2"
    with workspace() as space:
        start_superlink(space, "--simulation", RAY_ADDRESS="local")
        command = ["flwr", "run", str(app), CONNECTION, "--stream"]
        command += ["--federation-config", federation]
        command += ["--run-config", f"rounds=2 out='{out}'"]
        stream = space.start("run", command, environment_of(space, "operator"))
        stream.popen.wait(400)
        (run,) = ask(space, "ls", CONNECTION)["runs"]
        assert run["status"] == "finished:completed", stream.log.read_text()
    result = fm.load(out)
    assert (result.summary["nodes"], result.summary["clients_test"]) == (4, 2)


# --- an app of one's own hands, with train_reply ------------------------------------------------

PROBLEM = fm.Problem(lambda: LinearModel(1, 1), half_squared_error, (RMSE,))
X = torch.arange(12.0)[:, None]


def trained(seen: list[Asked]) -> dict[str, torch.Tensor]:
    """Train for three rounds on two nodes; return theta."""
    client, strategy = ClientApp(), fm.FOMAML()

    def mine(asked: Asked) -> Task:
        seen.append(asked)
        rows = asked.rows(12)
        half = [Batch(X[part], X[part, 0] * (1 + asked.client)) for part in (rows[:6], rows[6:])]
        return Task(*half)

    @client.train()
    def train(message: Message, context: Context) -> Message:
        return fm.train_reply(message, context, strategy, PROBLEM, mine)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return fm.evaluate_reply(message, context, strategy, PROBLEM, mine)

    server = FlowerStrategy(strategy, PROBLEM, seed=5)
    server.start(InProcessGrid(client, 2, {}), server.initial_arrays, num_rounds=3)
    return dict(server.state.meta["theta"])


def test_an_app_is_told_round_client_and_seed_and_can_be_repeated() -> None:
    first: list[Asked] = []
    second: list[Asked] = []
    one, other = trained(first), trained(second)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert first == second
    in_training = {(asked.round, asked.client) for asked in first if asked.split == "train"}
    assert in_training == {(round, client) for round in (1, 2, 3) for client in (0, 1)}
    assert {asked.seed for asked in first} == {5}


def test_rows_are_fresh_in_training_and_fixed_in_evaluation() -> None:
    def rows(**changes: Any) -> list[int]:
        given = {"round": 1, "split": "train", "client": 0, "seed": 0, "shared_statistics": {}}
        return Asked(**given | changes).rows(20).tolist()  # type: ignore[arg-type]

    assert sorted(rows()) == list(range(20))
    assert rows() == rows()
    assert len({tuple(rows(**change)) for change in ({}, {"round": 2}, {"client": 1},
                                                     {"seed": 1})}) == 4  # fmt: skip
    assert rows(split="test") == rows(split="test", round=9)


# --- sites that read their own examples ----------------------------------------------------------


class Rooms(fm.Sites):
    """Two columns, one of which is missing at times."""

    def problem(self) -> fm.Problem:
        return PROBLEM

    def examples(self, site: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.stack([torch.arange(10.0) + 100 * site, torch.full((10,), torch.nan)], 1)
        return x, torch.arange(10.0)


def test_sites_are_held_out_standardised_and_split_anew() -> None:
    rooms = Rooms(sites=4, held_out=1, validation=1, shots=3)
    assert rooms.clients() == {"train": range(2), "validation": range(2, 3), "test": range(3, 4)}
    each = [rooms.statistics(site) for site in rooms.clients()["train"]]
    totals = {name: each[0][name] + each[1][name] for name in each[0]}
    group = rooms.tasks("train", [0, 1], 1, totals)[0].tasks
    x = torch.cat([group.support.x, group.query.x], 1)
    assert group.support.y.shape == group.query.y.shape == (2, 5)
    assert x[..., 0].mean().abs() < 1e-6
    assert not x[..., 1].any()  # a missing one is the mean
    again = rooms.tasks("train", [0, 1], 2, totals)[0].tasks
    assert not torch.equal(again.support.y, group.support.y)
    held = [rooms.tasks("test", [3], round, totals)[0].tasks.support.y for round in (1, 2)]
    assert torch.equal(*held)
    assert held[0].shape == (1, 3)


def test_sites_that_do_not_suffice_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"none is left to train; raise task\.sites"):
        Rooms(sites=2, held_out=2).clients()
    with pytest.raises(DataError, match="site 0 has 10 inputs and 10 targets: it needs"):
        Rooms(shots=10).tasks("test", [0], 1, {})


@pytest.mark.parametrize(("kind", "passes"), [("scenario", 1), ("strategy", 0), ("app", 3)])
def test_on_a_full_disk_nothing_is_left_and_the_file_is_named(
    kind: str, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def filled(descriptor: int, content: bytes) -> None:
        written.append(os.write(descriptor, content))
        if len(written) > passes:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fedmaml.runs.writing.write_all_of", filled)
    with pytest.raises(DiskError, match=r"cannot write .*mywards.*bytes.*No space left"):
        write(kind, "mywards", tmp_path)
    assert len(written) == passes + 1
    assert list(tmp_path.iterdir()) == []
