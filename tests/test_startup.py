"""What a user waits for before anything is computed: nothing slow is imported for it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmaml.config import resolve
from fedmaml.config.declared import INDEX, declared_by_scenario, declared_by_strategy, field_types
from fedmaml.config.write_index import index_of_classes
from fedmaml.core import engines
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.plugins import Catalogue

SLOW = ["torch", "flwr", "scipy", "sklearn", "ray", "matplotlib"]

COMMANDS = {
    "--version": (0, "0.1.0"),
    "--help": (0, "Usage"),
    "run --help": (0, "Usage"),
    "list": (0, "fomaml"),
    "list --json": (0, "fomaml"),
    "run": (1, "no scenario given"),
    "run sinosoid": (1, "did you mean 'sinusoid'"),
    "run digits --strategy mamal": (1, "did you mean 'maml'"),
    "run digits --set innr.lr=1": (1, "did you mean 'inner.lr'"),
    "run digits --set inner.lr=-1": (1, "inner.lr = -1: input should be greater than 0"),
    "run digits --set inner.steps=1.5": (1, "inner.steps = 1.5"),
    "run digits --set outer.optimizer=lion": (1, "should be 'sgd', 'adam' or 'yogi'"),
    "run digits --set task.cross=2": (1, "task.cross = 2: input should be less than or equal"),
    "run hospitals --set task.network=cnn": (1, "should be 'mlp' or 'lr'"),
    "run digits --rounds -1": (1, "rounds = -1"),
    "run digits --engine warp": (1, "engine = 'warp'"),
    "compare digits --strategies fomaml,mamal": (1, "did you mean 'maml'"),
    "show nowhere": (1, "nowhere holds no run"),
    "export nowhere --to paper": (1, "known: tensorboard, mlflow"),
}  # fmt: skip
"""Command -> its exit code, and what it says."""

PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from fedmaml.cli import main

said = {}
for command in json.loads(sys.argv[1]):
    sys.argv = ["fedmaml", *command.split()]
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        try:
            main()
        except SystemExit as end:
            code = end.code
    said[command] = [code, out.getvalue()]
print(json.dumps([said, [name for name in SLOW if name in sys.modules]]))
"""


def test_lists_help_and_wrong_settings_import_nothing_slow(tmp_path: Path) -> None:
    program = PROGRAM.replace("SLOW", repr(SLOW))
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(COMMANDS))],
        capture_output=True, text=True, cwd=tmp_path, check=True,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    said, imported = json.loads(done.stdout)
    for command, (code, words) in COMMANDS.items():
        assert said[command][0] == code, (command, said[command][1])
        assert words in said[command][1], (command, said[command][1])
    assert imported == []


@pytest.mark.parametrize(
    ("words", "completed"),
    [("run dig", "digits"), ("run digits --strategy fom", "fomaml"), ("run --engine fu", "fused")],
)
def test_the_shell_completes_names_at_once(words: str, completed: str, tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['fedmaml']\n"
        "from fedmaml.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in {SLOW} if name in sys.modules])"
    )
    shell = {
        "_FEDMAML_COMPLETE": "complete_bash",
        "COMP_WORDS": f"fedmaml {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=tmp_path, check=True, env=os.environ | shell,
    )  # fmt: skip
    assert done.stdout.splitlines() == [completed, "[]"]


def test_the_index_says_what_the_classes_declare() -> None:
    """Write it again with ``python -m fedmaml.config.write_index``."""
    assert json.loads(INDEX.read_text(encoding="utf-8")) == index_of_classes()


def test_settings_of_the_index_are_those_of_the_classes() -> None:
    from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
    from fedmaml.strategies import CATALOGUE as STRATEGIES

    for catalogue, declared in (
        (SCENARIOS, declared_by_scenario),
        (STRATEGIES, declared_by_strategy),
    ):
        for name, cls in catalogue.items():
            made = declared(name).settings
            if catalogue.place(name).startswith("fedmaml."):
                assert made is not cls
            assert list(field_types(made)) == list(field_types(cls))
            for key, kind in field_types(made).items():
                assert kind is not Any, key  # a type that the index does not understand


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "fedavg", "adaptation.lr": 0},
        {"strategy": "fedprox", "mu": -1},
        {"strategy": "maml", "outer.momentum": 1},
        {"strategy": "maml", "outer.schedule": "step"},
        {"strategy": "maml", "inner.steps": "many"},
        {"strategy": "maml", "inner.steps": 10**7},
        {"scenario": "digits", "task.skew": "perhaps"},
        {"scenario": "hospitals", "task.held_out": 4},
    ],
)
def test_index_and_class_refuse_with_the_same_words(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def words() -> str:
        with pytest.raises(ConfigurationError) as refused:
            resolve({"scenario": "digits"} | settings)
        return str(refused.value)

    of_the_index = words()
    monkeypatch.setattr("fedmaml.config.declared._index", dict)  # so the classes themselves
    assert words() == of_the_index


def test_names_of_engines_are_those_of_the_engines() -> None:
    from fedmaml.computing.engines import ENGINES

    assert list(engines.ABOUT) == list(ENGINES)


def test_a_catalogue_imports_what_is_looked_up() -> None:
    catalogue: Catalogue[type] = Catalogue(
        "fedmaml.tests", {"path": "pathlib:Path", "gone": "no_such_module:Thing"}, "builtins:object"
    )
    assert list(catalogue) == ["path", "gone"]
    assert len(catalogue) == 2
    assert catalogue["path"] is Path
    with pytest.raises(ConfigurationError, match=r"'gone' .* cannot be loaded .*no_such_module"):
        catalogue["gone"]
    with pytest.raises(KeyError):
        catalogue["nothing"]
    catalogue["gone"] = int
    assert (catalogue["gone"], catalogue.place("gone"), list(catalogue)) == (
        int,
        "",
        ["path", "gone"],
    )
    del catalogue["gone"]
    assert list(catalogue) == ["path"]
