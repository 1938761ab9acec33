"""A missing extra is found before anything is written, and the message says what to install."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.commands import fedmaml
from tests.tables import write_sites

EXTRAS = {
    "ray": ("ray", "run digits --backend flower-simulation --out new"),
    "report": ("matplotlib", "report run --out new"),
    "tune": ("optuna", "compare digits --strategies maml --tune 5 --out new"),
    "tables": ("pandas", "run csv --data sites/*.csv --target y --rounds 1 --out new"),
    "tensorboard": ("tensorboard", "export run --to tensorboard --out new"),
    "mlflow": ("mlflow", "export run --to mlflow --uri sqlite:///new.db"),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_it_is_named_and_nothing_is_written(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, command = EXTRAS[extra]
    if extra == "tables":
        write_sites(tmp_path / "sites")
    if extra in ("tensorboard", "mlflow"):
        done = fedmaml("run", "sinusoid", "--rounds", "1", "--set", "task.test_clients=4", "--out",
                       "run", cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
    found, there = importlib.util.find_spec, {*tmp_path.iterdir()}
    monkeypatch.setitem(sys.modules, package, None)  # cannot be imported
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: None if name == package else found(name, *of)
    )
    done = fedmaml(*command.split(), cwd=tmp_path)
    assert done.returncode == 1
    assert f"pip install 'fedmaml[{extra}]'" in done.stderr
    assert {*tmp_path.iterdir()} == there
