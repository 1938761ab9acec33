"""Bytes: of tensors as counted by hand, of messages as Flower serialises them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.client.memory import load_costs, save_costs
from fedmaml.computing import costs
from fedmaml.config import resolve, to_run_config
from fedmaml.core.costs import Cost
from fedmaml.core.params import count_entries
from fedmaml.flower_internals import message_bytes
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.app import app as server_app
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.strategies import CATALOGUE
from tests.catalogue import FOUNDING, slow_unless
from tests.conftest import REGRESSORS

# Of digits' network 64-32-10: 64 * 32 + 32 in the body, 32 * 10 + 10 in the head.
BODY, HEAD = 2080, 330
STEPS = CATALOGUE["lslr"]().inner.steps
ENTRIES = dict.fromkeys(CATALOGUE, BODY + HEAD) | {
    "meta_sgd": 2 * (BODY + HEAD),
    "map": 2 * (BODY + HEAD),  # a precision for each
    "scaffold": 2 * (BODY + HEAD),  # a variate for each
    "fedrep": BODY,
    "fedbabu": BODY,
    "protonet": BODY,
    "r2d2": BODY + 3,
    "matchingnet": BODY,
    "meta_memory": BODY,
    "siamese": BODY + 33,
    "relation": BODY + 2 * 32 * 64 + 2 * 64 + 1,
    "cnp": BODY + 64 * (2 * 32 + 2 * 10 + 2 * 64 + 3) + 10,
    "anp": BODY + 64 * (4 * 32 + 2 * 10 + 3 * 64 + 5) + 10,
    # a controller of 64, rows of 32: LSTM, key and gate, output
    "mann": BODY + 4 * 64 * (32 + 10 + 32 + 64 + 1) + 65 * 33 + 10 * (64 + 32 + 1),
    "metanet": BODY + 10 * 33 + 3 * 20 + 1,
    # widths 42, 74, 106, 138, 170 and 202: attention, three convolutions, attention, head
    "snail": BODY + 96 * 43 + 64 * (2 * 74 + 2 * 106 + 2 * 138 + 3) + 96 * 171 + 10 * 203,
    "meta_lstm": BODY + HEAD + 4 * 20 * 25 + 2 * 23,
    "cavia": BODY + HEAD + 32 * 5,  # weights of five context parameters
    # weights of five latent numbers; an encoder 42-64-64-10
    "pearl": BODY + HEAD + 32 * 5 + 64 * 43 + 64 * 65 + 10 * 65,
    "lslr": BODY + HEAD + 4 * STEPS + STEPS,  # a rate for each tensor and step; weights of losses
    "learned_momentum": BODY + HEAD + 2 * 4,
    "q_fedavg": BODY + HEAD + 1,
}
SETTINGS: dict[str, Any] = {
    "scenario": "digits", "rounds": 2, "nodes": 3, "clients": 0, "task.train_clients": 3,
    "task.validation_clients": 1, "task.test_clients": 3,
}  # fmt: skip


class CountingGrid(InProcessGrid):
    """Serialises every message."""

    down: dict[str, int]
    up: dict[str, int]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        name = sent[0].metadata.message_type
        self.down[name] = self.down.get(name, 0) + sum(map(message_bytes, sent))
        return super().push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        name = replies[0].metadata.message_type
        self.up[name] = self.up.get(name, 0) + sum(map(message_bytes, replies))
        return replies


@pytest.mark.parametrize(
    "name",
    [
        slow_unless(name in FOUNDING or ENTRIES[name] != BODY + HEAD, name)
        for name in CATALOGUE
        if name not in REGRESSORS
    ],
)
def test_payload_is_four_bytes_for_every_number_that_travels(name: str, tmp_path: Path) -> None:
    summary = execute(resolve(SETTINGS | {"strategy": name, "rounds": 2}), tmp_path / "run")
    assert count_entries(RunDirectory(tmp_path / "run").load_meta()) == ENTRIES[name]
    each = summary["cost"]["per_client_and_round"]
    assert each["payload_bytes_down"] == each["payload_bytes_up"] == 4 * ENTRIES[name]
    totals = Cost.from_json(summary["cost"]["totals"])
    assert (totals.clients, totals.updates, totals.updates_measured) == (6, 6, 6)
    assert (totals.messages_down, totals.messages_up) == (6, 6)
    assert totals.flops > 0
    # One client at a node: its message is its payload and an envelope of 1 to 2 kB.
    message = summary["cost"]["per_message"]
    further = len(RunDirectory(tmp_path / "run").load_meta()) - 1  # arrays of their own
    assert 500 < message["bytes_down"] - 4 * ENTRIES[name] < 2000 + 400 * further
    assert 500 < message["bytes_up"] - 4 * ENTRIES[name] < 2000 + 400 * further


def test_rounds_add_up_to_the_summary(tmp_path: Path) -> None:
    summary = execute(resolve(SETTINGS | {"strategy": "maml"}), tmp_path / "run")
    records = RunDirectory(tmp_path / "run").rounds()
    total = sum((Cost.from_json(record["cost"]) for record in records), Cost())
    reported = Cost.from_json(summary["cost"]["totals"])
    assert total.to_json() == pytest.approx(reported.to_json(), abs=1e-5)
    for record in records:
        cost = record["cost"]
        assert cost["seconds_clients"] + cost["seconds_server"] == pytest.approx(
            record["seconds"], abs=1e-5
        )


@pytest.mark.parametrize("nodes", [1, 3])
def test_message_bytes_are_those_of_every_message_serialised(nodes: int, tmp_path: Path) -> None:
    """Though only one message of each shape is; numbers of other lengths differ by a few bytes."""
    config = resolve(SETTINGS | {"strategy": "maml", "rounds": 4, "nodes": nodes})
    RunDirectory(tmp_path).create(config)
    run_config = to_run_config(config, tmp_path)
    grid = CountingGrid(client_app, nodes, run_config)
    grid.down, grid.up = {}, {}
    server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))
    summary = RunDirectory(tmp_path).summary()
    assert summary is not None
    totals, evaluation = summary["cost"]["totals"], summary["cost"]["evaluation"]
    assert totals["message_bytes_down"] == pytest.approx(grid.down["train"], rel=0.001)
    assert totals["message_bytes_up"] == pytest.approx(grid.up["train"], rel=0.001)
    assert evaluation["message_bytes_down"] == pytest.approx(grid.down["evaluate"], rel=0.001)
    assert evaluation["message_bytes_up"] == pytest.approx(grid.up["evaluate"], rel=0.005)


def test_vectorised_and_single_clients_tell_the_same_cost(tmp_path: Path) -> None:
    reported = []
    for engine in ("vmap", "loop"):
        config = resolve(SETTINGS | {"strategy": "maml", "nodes": 1, "engine": engine})
        totals = execute(config, tmp_path / engine)["cost"]["totals"]
        reported.append({name: totals[name] for name in totals if not name.startswith("seconds")})
    assert reported[0] == reported[1]


def test_a_node_measures_once_and_remembers_over_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []
    measure = costs.measure
    monkeypatch.setattr(costs, "measure", lambda *args: calls.append(1) or measure(*args))
    monkeypatch.setattr(costs, "_process", {})
    execute(resolve(SETTINGS | {"strategy": "maml", "seed": 11}), tmp_path / "run")
    assert len(calls) == 2  # three nodes, two rounds, one shape: an update, and an evaluation

    context = Context(1, 2, {}, RecordDict(), {})
    save_costs(context, {"key": costs.Computation(2**40, 7)})
    assert load_costs(context) == {"key": costs.Computation(2**40, 7)}


def test_a_run_goes_on_when_its_cost_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no counters here")

    monkeypatch.setattr(costs, "measure", broken)
    monkeypatch.setattr(costs, "_process", {})
    summary = execute(resolve(SETTINGS | {"strategy": "maml", "seed": 12}), tmp_path / "run")
    totals = summary["cost"]["totals"]
    assert (totals["updates"], totals["updates_measured"], totals["peak_bytes"]) == (6, 0, None)
    assert summary["cost"]["per_client_and_round"]["flops"] is None
    assert json.dumps(summary, allow_nan=False)


def test_a_run_without_rounds_costs_nothing(tmp_path: Path) -> None:
    summary = execute(resolve(SETTINGS | {"strategy": "local", "rounds": 0}), tmp_path / "run")
    assert Cost.from_json(summary["cost"]["totals"]) == Cost()
    assert summary["cost"]["evaluation"]["messages_down"] == 3
