"""Errors in somebody else's code: file and line; with --debug the traceback; no text travels."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fedmaml.core.errors import described, place_of
from fedmaml.simulations.scenarios import CATALOGUE
from tests.commands import Done, fedmaml

WARDS = """\
from fedmaml.core.settings import settings
from fedmaml.simulations.scenarios import Sinusoid

@settings
class Wards(Sinusoid):
    wrong: str = "tasks"

    def problem(self):
        if self.wrong == "problem":
            return {}["beds"]
        return super(type(self), self).problem()

    def tasks(self, split, clients, round, shared_statistics):
        rows = super(type(self), self).tasks(split, clients, round, shared_statistics)
        if self.wrong == "later" and split == "train" and round == 2:
            raise ValueError("patient 12345 has no blood pressure")
        return [rows[5]] if self.wrong == "tasks" else rows
"""
LINE = {
    part: number
    for number, line in enumerate(WARDS.splitlines(), 1)
    for part in ("beds", "patient", "rows[5]")
    if part in line
}


@pytest.fixture
def wards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Somebody's scenario, in a file of its own, in the catalogue."""
    (tmp_path / "wards.py").write_text(WARDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wards", raising=False)
    module = importlib.import_module("wards")
    monkeypatch.setitem(CATALOGUE, "wards", module.Wards)
    return module


def run(*arguments: str, cwd: Path) -> Done:
    return fedmaml(*arguments, "--rounds", "3", "--clients", "8", "--out", "x", cwd=cwd)


@pytest.mark.usefixtures("wards")
def test_an_error_before_the_run_says_file_line_and_function(tmp_path: Path) -> None:
    done = run("run", "wards", cwd=tmp_path)
    assert done.returncode == 1
    place = rf"\(wards\.py, line {LINE['rows[5]']}, in tasks\)"
    assert re.search(
        r"\nfedmaml: ConfigurationError: strategy 'maml' cannot compute on a task of scenario "
        rf"'wards' with these settings: IndexError: list index out of range {place}; "
        r"fedmaml --debug shows the traceback\n$",
        done.stderr,
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("wards")
@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback_wherever_it_stands(before: bool, tmp_path: Path) -> None:
    words = ["--debug", "run", "wards"] if before else ["run", "wards", "--debug"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert f'wards.py", line {LINE["rows[5]"]}, in tasks' in done.stderr
    assert done.stderr.splitlines()[-1].startswith("fedmaml: ConfigurationError: strategy 'maml'")


@pytest.mark.usefixtures("wards")
def test_what_nobody_foresaw_ends_in_one_line(tmp_path: Path) -> None:
    words = ["run", "wards", "--set", "task.wrong=problem"]
    place = rf"\(wards\.py, line {LINE['beds']}, in problem\)"
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"wards: maml, 3 rounds of 8 clients, in-process\n"
        rf"fedmaml: KeyError: 'beds' {place}; fedmaml --debug shows the traceback\n",
        done.stderr,
    )
    shown = run(*words, "--debug", cwd=tmp_path).stderr
    assert "Traceback (most recent call last)" in shown
    assert re.search(rf"\nfedmaml: KeyError: 'beds' {place}\n$", shown)


@pytest.mark.usefixtures("wards")
def test_what_is_left_out_names_class_and_stage_and_the_log_the_place(tmp_path: Path) -> None:
    done = run("run", "wards", "--set", "task.wrong=later", cwd=tmp_path)
    assert done.returncode == 0
    text = (tmp_path / "x" / "rounds.jsonl").read_text()
    rejected = [entry for line in text.splitlines() for entry in json.loads(line)["rejected"]]
    assert {entry["reason"] for entry in rejected} == {"RAISED"}
    (detail,) = {entry["detail"] for entry in rejected}
    assert detail == "ValueError in reading its data (its text and place stay in the node's log)"
    assert "12345" not in text
    assert f'wards.py", line {LINE["patient"]}, in tasks' in done.stderr


def products() -> None:
    torch.ones(2, 3) @ torch.ones(2, 3)


def test_the_place_is_in_ones_own_code_whatever_library_it_called() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.func.vmap(lambda x: products() or x)(torch.ones(2))
    line = products.__code__.co_firstlineno + 1
    assert place_of(raised.value) == f"test_debug.py, line {line}, in products"
    assert described(raised.value).endswith(f"(test_debug.py, line {line}, in products)")


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert described(KeyError()) == "KeyError"
    assert described(ValueError("x")) == "ValueError: x"
