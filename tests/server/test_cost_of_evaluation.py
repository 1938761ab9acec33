"""What evaluation clients takes: counted by hand, added over evaluations, and not believed
blindly."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.computing import costs
from fedmaml.config import RunConfig, resolve, to_run_config
from fedmaml.messages.checks import seal
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.app import app as server_app
from fedmaml.simulations.backends.in_process import InProcessGrid

SETTINGS: dict[str, Any] = {
    "scenario": "digits", "rounds": 4, "clients": 0, "task.train_clients": 3,
    "task.validation_clients": 2, "task.test_clients": 5, "inner.steps": 3,
}  # fmt: skip
LAYERS = (64 * 32, 32 * 10)
FORWARD = 2 * sum(LAYERS)
GRADIENT = 2 * (2 * LAYERS[0] + 3 * LAYERS[1])


def evaluated_by_hand(config: RunConfig, *steps: int) -> int:
    """Return a client's operations: for each number of steps, adaptation and the query examples."""
    (group, *_) = config.make_scenario().tasks("test", [0], 1, {})
    support, query = (batch.y.shape[1] for batch in group.tasks)
    return sum(count * support * GRADIENT + query * FORWARD for count in steps)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("strategy", ["maml", "fomaml"])
def test_operations_of_all_stages_and_evaluations_are_counted(
    strategy: str, nodes: int, tmp_path: Path
) -> None:
    evaluation = {"evaluation.every": 2, "evaluation.steps": [1, 7]}
    config = resolve(SETTINGS | evaluation | {"strategy": strategy, "nodes": nodes})
    cost = execute(config, tmp_path / "run")["cost"]["evaluation"]
    assert cost["clients"] == cost["clients_measured"] == 2 * 2 + 5
    # Two validation clients, twice, before and after; five test clients at further steps, too.
    validation, test = evaluated_by_hand(config, 0, 3), evaluated_by_hand(config, 0, 1, 3, 7)
    assert cost["flops"] == 2 * 2 * validation + 5 * test
    assert cost["peak_bytes"] > 0
    assert cost["messages_down"] == 3 * nodes


def test_one_client_of_a_shape_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    measure = costs.measure
    monkeypatch.setattr(costs, "measure", lambda *args: calls.append(1) or measure(*args))
    monkeypatch.setattr(costs, "_process", {})
    config = resolve(SETTINGS | {"strategy": "fomaml", "evaluation.every": 2, "seed": 21})
    execute(config, tmp_path / "run")
    assert len(calls) == 2  # of an update, of a evaluation


def evaluated(out: Path, tamper: Callable[[RecordDict], None]) -> dict[str, Any]:
    """Run with two nodes, of which one tampers with its evaluation; return the summary."""
    config = resolve(SETTINGS | {"strategy": "fomaml", "nodes": 2, "rounds": 1})

    def tampered(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        if message.metadata.message_type == "evaluate" and message.metadata.dst_node_id == 2:
            tamper(reply.content)
            seal(reply.content)
        return reply

    RunDirectory(out).create(config)
    run_config = to_run_config(config, out)
    grid = InProcessGrid(tampered, 2, run_config)  # type: ignore[arg-type]
    server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))
    summary = RunDirectory(out).summary()
    assert summary is not None
    return summary


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("flops", [-1, 5], "flops is -1, allowed are whole numbers from 0 to 2\\^62"),
        ("flops", [2**62 + 1, 5], "flops is 4611686018427387905, allowed"),
        ("flops", [1.5, 5.0], "flops is 1.5, allowed"),
        ("flops", [5], "flops has not one value for each of the clients"),
        ("flops", 5, "flops has not one value for each of the clients"),
        ("peak-bytes", [5, -7], "peak-bytes is -7, allowed"),
    ],
)
def test_an_evaluation_that_claims_nonsense_is_left_out_with_the_reason(
    name: str, value: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tamper(content: RecordDict) -> None:
        content.metric_records["metrics"][name] = value

    summary = evaluated(tmp_path / "run", tamper)
    assert summary["clients_test"] == 3  # those of the other node
    cost = summary["cost"]["evaluation"]
    assert (cost["clients"], cost["clients_measured"]) == (5, 3)
    (line,) = [record.message for record in caplog.records if "left out" in record.message]
    assert re.search(f"COST: {said}", line)


def test_a_node_need_not_say_what_its_evaluation_took(tmp_path: Path) -> None:
    def tamper(content: RecordDict) -> None:
        for name in ("flops", "peak-bytes"):
            del content.metric_records["metrics"][name]

    summary = evaluated(tmp_path / "run", tamper)
    assert summary["clients_test"] == 5
    cost = summary["cost"]["evaluation"]
    assert (cost["clients"], cost["clients_measured"]) == (5, 3)
