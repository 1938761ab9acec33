"""`fedmaml check` says what is wrong, and what `fedmaml new` writes passes it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmaml.checking import Checked, check
from fedmaml.config import resolve
from fedmaml.core.errors import ConfigurationError
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES
from fedmaml.templates import write


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    for catalogue in (SCENARIOS, STRATEGIES):
        for name in ("wards", "slow_maml"):
            if name in catalogue:
                del catalogue[name]


def checked(
    folder: Path, change: tuple[str, str] = ("", ""), of: str = "scenario", *names: str
) -> list[Checked]:
    file, _ = write(of, "wards" if of == "scenario" else "slow_maml", folder)
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change, 1))
    given = {"scenario": "wards", "scenario_from": str(file)}
    if of == "strategy":
        given = {"scenario": "sinusoid", "strategy": "slow_maml", "strategy_from": str(file)}
    return check(resolve(given), names)


@pytest.mark.parametrize("kind", ["scenario", "strategy"])
def test_what_is_new_passes(kind: str, tmp_path: Path) -> None:
    results = checked(tmp_path, of=kind)
    assert [result.detail for result in results if not result.passed] == []
    assert [result.name for result in results] == [
        "clients", "tasks", "repeatable", "network and strategy", "gradients", "leakage",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_new_file_and_its_test_are_written_by_the_command_and_pass(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedmaml.cli", "new", "scenario", "my_wards"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "fedmaml check my_wards.py" in done.stdout
    assert "class MyWards(Scenario)" in (tmp_path / "my_wards.py").read_text()
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_wards.py"]
    done = subprocess.run(test, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (("range(120, 160)", "range(110, 160)"), "clients",
         "client 110 is in 'validation' and in 'test', 10 in all"),
        (("amplitude * torch.sin", "torch.nan * torch.sin"), "tasks", "values that are not finite"),
        (("x = 10 * seeding.uniform(drawn, clients, 2 * self.shots, 1) - 5",
          "x = torch.randn(len(clients), 2 * self.shots, 1).double()"), "repeatable",
         "differs when it is made twice: draw by core.seeding"),
        (('clients, 1) * 3', "range(len(clients)), 1) * 3"), "repeatable",
         "is another one when clients [0, 1] are asked for together"),
        (('round if split == "train" else 0', "round"), "repeatable",
         "differs from round to round: what is evaluated must stay the same"),
        (("TaskGroup(tuple(clients), task)", "TaskGroup((0, 1), task)"), "tasks",
         "for 2 clients: a task is Task(Batch(x, y)"),
        (("torch.tanh), half", "lambda x: torch.nn.functional.dropout(x, .5)), half"),
         "network and strategy", "draws random numbers of its own"),
        (("MLP((1, 32", "MLP((2, 32"), "network and strategy", "mat1 and mat2|size"),
        (("x[:, query], y[:, query]", "x[:, support], y[:, support]"), "leakage",
         "support-query-overlap"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    change: tuple[str, str], name: str, message: str, tmp_path: Path
) -> None:
    wrong = {
        result.name: result.detail
        for result in checked(tmp_path, change, "scenario", name)
        if not result.passed
    }
    assert name in wrong
    assert any(part in wrong[name] for part in message.split("|")), wrong[name]


def test_numbers_that_are_not_finite_are_the_same_when_they_are_made_twice(tmp_path: Path) -> None:
    change = ("amplitude * torch.sin", "torch.nan * torch.sin")
    results = {one.name: one for one in checked(tmp_path, change, "scenario", "repeatable")}
    assert results["repeatable"].passed


def test_a_wrong_update_is_named(tmp_path: Path) -> None:
    change = (
        "client_update = meta_update",
        "def client_update(self, learner, meta, memory, task):\n"
        "        update = meta_update(self, learner, meta, memory, task)\n"
        "        return update._replace(update={'theta': {name: 2 * value for name, value in "
        "update.update['theta'].items()}})",
    )
    results = {result.name: result for result in checked(tmp_path, change, "strategy", "gradients")}
    assert not results["gradients"].passed
    assert "differs from central finite differences" in results["gradients"].detail


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("network", "x", "cannot make a new 'network'; known: scenario, strategy"),
        ("scenario", "My-Wards", "a file is named in lower case letters"),
        ("strategy", "maml", "name 'maml': a scenario or strategy .* has it; .* e.g. my_maml"),
        ("strategy", "torch", "name 'torch': an installed package has it"),
        ("scenario", "class", "name 'class': Python has it"),
        ("app", "statistics", "name 'statistics': Python has it"),
    ],
)
def test_wrong_names_are_refused(kind: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        write(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []
