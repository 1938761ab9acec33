"""Estimates, held against the runs that they are about."""

from pathlib import Path
from typing import Any

import pytest

from fedmaml.config import resolve
from fedmaml.estimating import estimate
from fedmaml.running import execute
from fedmaml.strategies import CATALOGUE

SMALL: dict[str, Any] = {
    "scenario": "digits", "rounds": 2, "nodes": 2, "clients": 9, "task.train_clients": 12,
    "task.validation_clients": 3, "task.test_clients": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", CATALOGUE)
def test_bytes_and_operations_of_equal_clients_are_exact(name: str, tmp_path: Path) -> None:
    config = resolve(SMALL | {"strategy": name, "rounds": 2})
    told = estimate(config)
    cost = execute(config, tmp_path / "run")["cost"]
    totals = cost["totals"]
    assert told.training.clients == totals["clients"]
    assert told.training.payload_bytes_down == totals["payload_bytes_down"]
    assert told.training.payload_bytes_up == totals["payload_bytes_up"]
    assert told.per_round.payload_bytes * 2 == told.training.payload_bytes
    assert told.training.flops == totals["flops"] == 2 * told.per_round.flops > 0
    assert told.per_client.flops == cost["per_client_and_round"]["flops"]
    assert told.peak_bytes == totals["peak_bytes"]
    assert told.shapes == 1
    assert told.training.message_bytes_down == pytest.approx(totals["message_bytes_down"], rel=0.01)
    assert told.training.message_bytes_up == pytest.approx(totals["message_bytes_up"], rel=0.01)


@pytest.mark.parametrize("strategy", ["fomaml", "fedavg"])
def test_unequal_clients_that_all_take_part_are_exact_too(
    strategy: str, tmp_path: Path, data_dir: Path
) -> None:
    settings = {"scenario": "hospitals", "strategy": strategy, "rounds": 3, "nodes": 4}
    config = resolve(settings, {"data_dir": str(data_dir)})
    told = estimate(config)
    totals = execute(config, tmp_path / "run")["cost"]["totals"]
    assert told.shapes == 4
    assert told.training.payload_bytes_down == totals["payload_bytes_down"]
    assert told.training.flops == totals["flops"]
    assert told.peak_bytes == totals["peak_bytes"]
    assert told.training.message_bytes_down == pytest.approx(totals["message_bytes_down"], rel=0.01)
    assert told.training.message_bytes_up == pytest.approx(totals["message_bytes_up"], rel=0.01)


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
