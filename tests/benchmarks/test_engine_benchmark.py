"""The side-by-side of the engines: contenders agree, a wrong one is caught, rows are complete."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.engine import __main__, reference
from benchmarks.engine.cases import Case
from benchmarks.engine.measure import CONTENDERS, Entry, Row, measure
from benchmarks.engine.rounds import Algorithm, Contender, Round
from benchmarks.engine.targets import evaluated
from benchmarks.engine.workloads import perceptron

pytestmark = pytest.mark.filterwarnings("default")  # the peers' own

KEYS = {"case", "contender", "status", "microseconds_per_client", "ratio", "peak_fraction", "note"}


def tiny(workload: str, algorithm: Algorithm) -> Case:
    return Case("tiny", workload, algorithm, clients=3, few=2, steps=2)


@pytest.mark.parametrize(
    ("workload", "algorithm"),
    [
        ("W1", "maml"),
        ("W1", "reptile"),
        ("W2-unequal", "fomaml"),
        pytest.param("W2-unequal", "maml", marks=pytest.mark.slow),
    ],
)
def test_contenders_agree(workload: str, algorithm: Algorithm) -> None:
    without_jax = {name: entry for name, entry in CONTENDERS.items() if "JAX" not in name}
    rows = measure(tiny(workload, algorithm), 0.0, without_jax)
    assert [row.contender for row in rows] == list(without_jax)
    assert not [row for row in rows if row.status == "wrong"]
    timed = {row.contender for row in rows if row.microseconds_per_client}
    assert {"torch.func loop", "torch.func.vmap", "fedmaml loop", "fedmaml vmap"} <= timed
    assert all(row.note for row in rows if row.status != "timed")


def test_a_wrong_contender_is_not_timed() -> None:
    def slightly_wrong(round_: Round) -> Contender:
        right = reference.loop(round_)
        return lambda: right() * 1.001

    def not_finite(round_: Round) -> Contender:
        right = reference.loop(round_)
        return lambda: right() * torch.nan

    def late(round_: Round) -> Contender:
        def mean() -> Tensor:
            return reference.loop(round_)()

        return mean

    entries = {"a": Entry(slightly_wrong, "few"), "b": Entry(not_finite, "all")}
    rows = measure(tiny("W1", "fomaml"), 0.0, entries | {"c": Entry(late, "all")})
    assert [row.status for row in rows] == ["wrong", "wrong", "timed"]
    assert rows[0].microseconds_per_client is None
    assert rows[2].ratio == 1.0  # the base was not there, so the first that was timed is it


def test_the_command_writes_complete_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JAX_PYTHON", raising=False)
    file = tmp_path / "rows.json"
    __main__.main(["--quick", "--cases", "W2-maml", "--json", str(file)])
    tables = json.loads(file.read_text())["tables"]
    rows = tables["small networks"]["rows"]
    by_name = {name: row["W2-maml"] for name, row in rows.items()}
    assert all(set(row) >= KEYS for row in by_name.values())
    assert by_name["JAX jit(vmap)"]["status"] == "not installed"
    assert 0 < by_name["torch.func.vmap"]["peak_fraction"] < 1
    printed = capsys.readouterr().out
    assert "set JAX_PYTHON" in printed
    assert ">= 220x learn2learn" in printed


def test_targets_are_evaluated_by_the_fastest_engine() -> None:
    def row(contender: str, microseconds: float) -> Row:
        return Row(
            "MLP-1e6", "MLP-1e6", "fomaml", contender, "timed", 1,
            microseconds_per_client=microseconds,
        )  # fmt: skip

    rows = [row("deepcopy loop", 28.0), row("fedmaml loop", 30.0), row("fedmaml vmap", 10.0)]
    assert evaluated(rows) == {
        "MLP-1e6, deepcopy loop": {
            "case": "MLP-1e6",
            "target": ">= 2.8x deepcopy loop",
            "reached": 2.8,
            "engine": "fedmaml vmap",
            "verdict": "reached",
        }
    }
    assert set(asdict(rows[0])) >= KEYS


@pytest.mark.parametrize("parameters", [1e3, 1e5, 1e7])
def test_a_perceptron_is_as_large_as_asked_for(parameters: float) -> None:
    network = perceptron(parameters).problem.network()
    count = sum(value.numel() for value in network.parameters())
    assert abs(count / parameters - 1) < 0.1
