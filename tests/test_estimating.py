"""Estimates, compared with their runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.estimates import PROCESSOR, fedmaml
from fedmaml import cli
from fedmaml.config import resolve
from fedmaml.core.errors import ConfigurationError
from fedmaml.estimating import Amount, counting, estimate, timing
from fedmaml.estimating.rehearsal import rehearse
from fedmaml.running import execute
from fedmaml.strategies import CATALOGUE
from tests.catalogue import founding_first
from tests.conftest import REGRESSORS

SMALL: dict[str, Any] = {
    "scenario": "digits", "rounds": 2, "nodes": 2, "clients": 9, "task.train_clients": 12,
    "task.validation_clients": 3, "task.test_clients": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    "name", founding_first((name for name in CATALOGUE if name not in REGRESSORS), ("scaffold",))
)
def test_bytes_and_operations_of_equal_clients_are_exact(name: str, tmp_path: Path) -> None:
    config = resolve(SMALL | {"strategy": name, "rounds": 2})
    ours = estimate(config)
    cost = execute(config, tmp_path / "run")["cost"]
    totals = cost["totals"]
    assert ours.training.clients == totals["clients"]
    assert ours.training.payload_bytes_down == totals["payload_bytes_down"]
    assert ours.training.payload_bytes_up == totals["payload_bytes_up"]
    assert ours.per_round.payload_bytes * 2 == ours.training.payload_bytes
    assert ours.training.flops == totals["flops"] == 2 * ours.per_round.flops > 0
    assert ours.per_client.flops == cost["per_client_and_round"]["flops"]
    assert ours.peak_bytes == totals["peak_bytes"]
    assert ours.shapes == 1
    assert ours.training.message_bytes_down == pytest.approx(totals["message_bytes_down"], rel=0.01)
    assert ours.training.message_bytes_up == pytest.approx(totals["message_bytes_up"], rel=0.01)


@pytest.mark.parametrize("strategy", ["fomaml", "fedavg"])
def test_unequal_clients_that_all_take_part_are_exact_too(
    strategy: str, tmp_path: Path, data_dir: Path
) -> None:
    settings = {"scenario": "hospitals", "strategy": strategy, "rounds": 3, "nodes": 4}
    config = resolve(settings, {"data_dir": str(data_dir)})
    ours = estimate(config)
    totals = execute(config, tmp_path / "run")["cost"]["totals"]
    assert ours.shapes == 4
    assert ours.training.payload_bytes_down == totals["payload_bytes_down"]
    assert ours.training.flops == totals["flops"]
    assert ours.peak_bytes == totals["peak_bytes"]
    assert ours.training.message_bytes_down == pytest.approx(totals["message_bytes_down"], rel=0.01)
    assert ours.training.message_bytes_up == pytest.approx(totals["message_bytes_up"], rel=0.01)


def test_unequal_clients_of_changing_cohorts_are_those_that_take_part(
    tmp_path: Path, data_dir: Path
) -> None:
    settings = {"scenario": "hospitals", "strategy": "fomaml", "rounds": 20, "clients": 2}
    config = resolve(settings, {"data_dir": str(data_dir)})
    ours = estimate(config)
    assert ours.clients_measured == 20 * 2
    totals = execute(config, tmp_path / "run")["cost"]["totals"]
    assert ours.training.flops == pytest.approx(totals["flops"], rel=1e-6)
    longer = estimate(replace(config, rounds=1000))  # whose cohorts are not all looked at
    assert longer.clients_measured == 50 * 2
    assert longer.per_round.flops == pytest.approx(ours.per_round.flops, rel=0.3)


@pytest.mark.parametrize("aggregation", ["mean", "median"])
@pytest.mark.parametrize("clients", [4, 9])
def test_replies_have_the_form_that_the_run_asks_for(
    clients: int, aggregation: str, tmp_path: Path
) -> None:
    """A stack for a robust rule or few clients at a node, a sum otherwise."""
    settings = {"strategy": "fomaml", "nodes": 1, "aggregation.rule": aggregation}
    config = resolve(SMALL | settings | {"clients": clients})
    totals = execute(config, tmp_path / "run")["cost"]["totals"]
    up = estimate(config).training.message_bytes_up
    assert up == pytest.approx(totals["message_bytes_up"], rel=0.01)


@pytest.mark.parametrize(("method", "nodes"), [("qsgd-4", 12), ("top-k", 12), ("qsgd-8", 1)])
def test_compressed_updates_are_estimated_as_they_are_sent(
    method: str, nodes: int, tmp_path: Path
) -> None:
    """As codes by nodes of one client, as a sum by a node of many."""
    settings = {"strategy": "meta_sgd", "nodes": nodes, "compression.method": method}
    config = resolve(SMALL | settings | {"clients": 0})
    totals = execute(config, tmp_path / "run")["cost"]["totals"]
    ours = estimate(config).training
    assert ours.payload_bytes_up == totals["payload_bytes_up"] < ours.payload_bytes_down
    assert ours.message_bytes_up == pytest.approx(totals["message_bytes_up"], rel=0.01)


@pytest.mark.parametrize(("strategy", "nodes"), [("fomaml", 1), ("protonet", 3)])
def test_evaluations_are_exact_too(strategy: str, nodes: int, tmp_path: Path) -> None:
    settings = {"rounds": 5, "evaluation.every": 2, "strategy": strategy, "nodes": nodes}
    config = resolve(SMALL | settings, {"evaluation.steps": [1, 3], "clients": 0})
    ours = estimate(config).evaluation
    cost = execute(config, tmp_path / "run")["cost"]["evaluation"]
    assert ours.clients == cost["clients"] == 2 * 3 + 4
    assert ours.flops == cost["flops"] > 0
    assert ours.message_bytes_down == pytest.approx(cost["message_bytes_down"], rel=0.01)
    assert ours.message_bytes_up == pytest.approx(cost["message_bytes_up"], rel=0.02)
    assert ours.payload_bytes_up == 0


def test_a_large_cohort_is_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(SMALL | {"strategy": "fomaml"})
    exact = estimate(config)
    monkeypatch.setattr(counting, "MAX_CLIENTS", 4)
    assert counting.evenly(range(9)) == range(0, 9, 3)
    assert counting.evenly(range(4)) == range(4)
    sampled = estimate(config)
    assert sampled.clients_measured == 2 * 3 < exact.clients_measured == 2 * 9
    assert sampled.per_round == exact.per_round


def test_a_run_without_training_costs_its_evaluation() -> None:
    ours = estimate(resolve(SMALL | {"strategy": "local", "rounds": 0}), timed=True)
    assert ours.training == Amount()
    assert ours.evaluation.clients == 4
    assert ours.seconds is not None
    assert ours.seconds.first_round == ours.seconds.round_clients == 0
    assert ours.seconds.total == ours.seconds.start + ours.seconds.evaluations > 0


def test_cohorts_of_many_chunks_are_timed_by_one_and_scaled() -> None:
    config = resolve(SMALL | {"strategy": "fomaml", "nodes": 1, "client_batch": 4, "rounds": 2})
    ready = rehearse(config)
    assert ready.train_chunk() == ready.train_chunk(9) == 4
    assert timing.scale(ready, "train", range(9), 4, ready.train_chunk) == 9 / 4
    assert timing.scale(ready, "train", range(3), 3, ready.train_chunk) == 1
    shared = rehearse(resolve(config.to_table(), {"workers": 2}))
    vmapped = timing.scale(shared, "train", range(9), 4, lambda _: 4)
    assert vmapped == 2  # three chunks, two at a time
    shared = rehearse(resolve(config.to_table(), {"workers": 2, "engine": "loop"}))
    one_by_one = timing.scale(shared, "train", range(9), 4, shared.train_chunk)
    assert one_by_one == 4  # of the probe's four each worker takes two; then 4, 4 and 1: 8 in turn
    seconds = timing.time_run(ready)
    assert seconds.total == pytest.approx(
        seconds.start
        + seconds.first_round
        + seconds.round_clients
        + seconds.round_server
        + seconds.evaluations
    )
    # Two rounds of one chunk were computed; of the whole cohort the server has seen replies only.
    assert sum(ready.server.engines.values()) == 2 * 4 + 4 * 9
    assert ready.server.last_round.clients == tuple(ready.cohort(2))
    assert ready.server.last_round.rejected == ()


@pytest.mark.parametrize("backend", ["flower-simulation", "flower-deployment"])
def test_seconds_on_flower_say_what_they_leave_out(backend: str) -> None:
    ours = estimate(resolve(SMALL | {"strategy": "fomaml", "backend": backend})).to_json()
    assert ours["seconds"] is None
    assert (
        "are not included" in ours["seconds_leave_out"] or "beside it" in ours["seconds_leave_out"]
    )


def test_the_table_has_every_amount() -> None:
    arguments = ["estimate", "digits", "--strategy", "fomaml", "--rounds", "3", "--nodes", "2"]
    done = CliRunner().invoke(cli.app, [*arguments, "--counted"])
    assert done.exit_code == 0, done.output
    for words in ("operations", "messages up", "memory of a client's update", "Nothing was timed"):
        assert words in done.output
    assert "seconds" not in done.output


def test_an_unknown_strategy_is_refused_with_what_is_known() -> None:
    done = CliRunner().invoke(cli.app, ["estimate", "digits", "--strategy", "mamml"])
    assert isinstance(done.exception, ConfigurationError)
    assert "there is no such strategy; did you mean 'maml'?" in str(done.exception)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "strategy", "rounds"),
    [
        ("sinusoid", "maml", 1600),
        ("digits", "fomaml", 1600),
        ("hospitals", "reptile", 800),
        ("quadratic", "fedavg", 3200),
    ],
)
def test_seconds_and_memory_are_within_30_percent(
    scenario: str, strategy: str, rounds: int, data_dir: Path
) -> None:
    """Of processor time, which others on this machine disturb less."""
    command = (scenario, "--strategy", strategy, "--rounds", str(rounds))
    if scenario == "hospitals":
        command += ("--data-dir", str(data_dir))
    ours, ran = fedmaml(PROCESSOR, "estimate", *command), fedmaml(PROCESSOR, "run", *command)
    assert ours["seconds"]["total"] == pytest.approx(ran["seconds"], rel=0.3)
    assert ours["seconds"]["peak_process_bytes"] == pytest.approx(
        ran["peak_process_bytes"], rel=0.3
    )
