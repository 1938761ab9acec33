"""The first minute: the demo, help with examples, and ``python -m fedmaml``."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from fedmaml.cli import COMMANDS, EXAMPLES, app
from fedmaml.cli import demo as demo_module
from tests.commands import fedmaml
from tests.conftest import ROOT


def test_the_demo_trains_shows_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"scenario": "digits", "rounds": 2, "clients": 4, "task.test_clients": 4,
             "task.validation_clients": 2}  # fmt: skip
    monkeypatch.setattr(sys.modules["fedmaml.cli.demo"], "SETTINGS", small)
    for _ in range(2):  # the second overwrites the first
        done = fedmaml("demo", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "fedmaml compare digits --strategies fomaml --seeds 5" in done.stdout
    for strategy in demo_module.__globals__["STRATEGIES"]:
        assert (tmp_path / "runs/demo" / strategy / "summary.json").is_file()
        assert re.search(rf"\b{strategy}\b.*accuracy", done.stdout)
    assert (tmp_path / "runs/demo/report.html").is_file() == ("Report:" in done.stdout)


def test_make_demo_is_the_command() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ndemo:")[2].partition("\n\n")[0]
    assert recipe.splitlines()[1:] == ["\t$(BIN)/fedmaml demo"]


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedmaml", "--version"], capture_output=True, text=True, check=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "0.1.0\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_the_command_takes(name: str, tmp_path: Path) -> None:
    shown = re.sub(r"\s+", " ", fedmaml(name, "--help", cwd=tmp_path).stdout)
    assert f"Example: fedmaml {EXAMPLES[name]}" in shown
    command, *arguments = shlex.split(EXAMPLES[name])
    assert command == name
    group = typer.main.get_command(app)
    group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_describes_every_argument_and_option(name: str, tmp_path: Path) -> None:
    shown = re.sub(r"[\s│]+", " ", fedmaml(name, "--help", cwd=tmp_path).stdout)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for one in command.params:
        assert one.help, (name, one.name)
        assert one.help.split(";")[0].split(". ")[0][:40].rstrip() in shown, (name, one.name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str, tmp_path: Path) -> None:
    """What a shell's script asks for: the names of the commands that begin so."""
    asked = {
        "_FEDMAML_COMPLETE": f"complete_{shell}", "COMP_WORDS": "fedmaml che", "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "fedmaml che", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    shown = subprocess.run(
        [Path(sys.executable).with_name("fedmaml")], capture_output=True, text=True, check=False,
        cwd=tmp_path, env=os.environ | asked,
    )  # fmt: skip
    assert "check-gradients" in shown.stdout
    assert "compare" not in shown.stdout
