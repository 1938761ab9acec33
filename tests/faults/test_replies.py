"""Bad replies beyond those of tests/server/test_bad_replies.py: faults of one node among five."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord

from fedmaml.client import app as client_module
from fedmaml.client.app import app as client_app
from fedmaml.core.records import REASONS
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.backends.in_process import InProcessGrid
from tests.server.test_bad_replies import (
    BAD_NODE,
    BAD_ROUND,
    Tamper,
    absent,
    array_of,
    ran,
    run,
    weighing,
    with_array,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the run in which the bad node is absent in the bad round."""
    return run(tmp_path_factory.mktemp("oracle") / "run", absent)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("good") / "run", lambda _message, reply: reply)


def left_out(result: dict[str, Any]) -> list[Any]:
    """Return reason and clients of what was left out of the bad round."""
    rejected = result["rounds"][BAD_ROUND - 1]["rejected"]
    return [(each["reason"], each["clients"]) for each in rejected]


@pytest.mark.parametrize(
    "error",
    [ValueError, MemoryError, RecursionError, OSError, SystemExit],
    ids=lambda e: e.__name__,
)
def test_a_client_that_raises_was_absent(
    error: type[BaseException],
    tmp_path: Path,
    oracle: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = client_module.answer_train

    def answered(message: Message, request: Any, context: Context, *others: Any) -> Message:
        if context.node_id == BAD_NODE and request.round == BAD_ROUND:
            raise error("patient 17 has no blood pressure")
        return answer(message, request, context, *others)

    monkeypatch.setattr(client_module, "answer_train", answered)
    result = run(tmp_path / "run", lambda _message, reply: reply)
    assert result["sha"] == oracle["sha"]
    assert left_out(result) == [("RAISED", [1])]
    assert "patient 17" not in (tmp_path / "run" / "rounds.jsonl").read_text()


def scaled(factor: float) -> Tamper:
    return lambda _message, reply: with_array(reply, array_of(reply) * np.float32(factor))


@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_an_update_that_is_too_large(factor: float, tmp_path: Path, oracle: dict[str, Any]) -> None:
    result = run(tmp_path / "run", scaled(factor))
    assert result["sha"] == oracle["sha"]
    ((reason, clients),) = left_out(result)
    assert clients == [1]
    assert reason in REASONS


def test_num_examples_of_a_billion(tmp_path: Path, oracle: dict[str, Any]) -> None:
    result = run(tmp_path / "run", weighing([1e9]))
    assert result["sha"] == oracle["sha"]
    assert left_out(result) == [("WEIGHT", [1])]


@pytest.mark.parametrize("value", ["10", True])
def test_num_examples_of_another_type_cannot_even_be_sent(value: Any) -> None:
    with pytest.raises(TypeError):
        MetricRecord({"num-examples": [value]})


def with_metrics(**entries: Any) -> Tamper:
    def tamper(_message: Message, reply: Message) -> Message:
        reply.content.metric_records["metrics"].update(entries)
        return reply

    return tamper


def test_metrics_of_training_that_are_nan_spoil_no_mean(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    result = run(tmp_path / "run", with_metrics(loss_after=[float("nan")]))
    assert result["sha"] == undisturbed["sha"]
    means = result["rounds"][BAD_ROUND - 1]["metrics"]
    assert means["loss_before"] == undisturbed["rounds"][BAD_ROUND - 1]["metrics"]["loss_before"]
    assert means["loss_after"] is None or np.isfinite(means["loss_after"])


def test_metrics_of_training_that_nobody_asked_for_are_not_kept(
    tmp_path: Path, oracle: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    result = run(tmp_path / "run", with_metrics(extra=[1.0]))
    assert result["sha"] in (oracle["sha"], undisturbed["sha"])
    names = set(undisturbed["rounds"][0]["metrics"])
    assert [set(record["metrics"]) for record in result["rounds"]] == [names] * 3


def test_invented_metrics_cost_seconds_at_most_and_none_is_kept(tmp_path: Path) -> None:
    names = {f"metric-{number}": [0.5] for number in range(100_000)}
    seconds: list[float] = []

    def tamper(_message: Message, reply: Message) -> Message:
        reply.content["metrics"] = MetricRecord(
            {**reply.content.metric_records["metrics"], **names}
        )
        seconds.append(time.process_time())
        return reply

    result = run(tmp_path / "run", tamper)
    assert time.process_time() - seconds[0] < 5.0
    assert (tmp_path / "run" / "rounds.jsonl").stat().st_size < 10_000
    assert len(result["rounds"]) == 3


def test_a_reply_that_arrives_twice_counts_once(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = InProcessGrid.pull_messages

    def twice(self: InProcessGrid, message_ids: Iterable[str]) -> list[Message]:
        replies = list(pull(self, message_ids))
        return [*replies, *replies]

    monkeypatch.setattr(InProcessGrid, "pull_messages", twice)
    result = run(tmp_path / "run", lambda _message, reply: reply)
    assert result["sha"] == undisturbed["sha"]
    assert [record["weight"] for record in result["rounds"]] == [
        record["weight"] for record in undisturbed["rounds"]
    ]


def test_an_update_of_zeros_is_used(tmp_path: Path, oracle: dict[str, Any]) -> None:
    result = run(tmp_path / "run", scaled(0.0))
    assert result["rejected"] == 0
    assert result["sha"] != oracle["sha"]


def test_a_client_that_diverges_says_so_itself(
    tmp_path: Path, oracle: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its inputs are 1e25 times too large, so that its inner loop overflows."""
    answer = client_module.answer_train
    sent: list[Message] = []

    def large(batch: Batch) -> Batch:
        return Batch(batch.x * 1e25, batch.y)

    def answered(
        message: Message, request: Any, context: Context, prepared: Any, tasks: Any, *others: Any
    ) -> Message:
        def spoiled(clients: Sequence[int]) -> list[Any]:
            groups = tasks(clients)
            return [TaskGroup(g.clients, Task(*map(large, g.tasks))) for g in groups]

        bad = context.node_id == BAD_NODE and request.round == BAD_ROUND
        reply = answer(message, request, context, prepared, spoiled if bad else tasks, *others)
        if bad:
            sent.append(reply)
        return reply

    monkeypatch.setattr(client_module, "answer_train", answered)
    result = run(tmp_path / "run", lambda _message, reply: reply)
    assert result["sha"] == oracle["sha"]
    ((reason, clients),) = left_out(result)
    assert (reason, clients) in (("NONFINITE", [1]), ("RANGE", [1]))
    assert list(sent[0].content.config_records["reply"]["clients"]) == []


def evaluated(out: Path, tamper: Tamper, **settings: Any) -> dict[str, Any]:
    """Run; tamper with the bad node's replies to evaluations."""

    def client(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        is_bad = message.metadata.dst_node_id == BAD_NODE
        if is_bad and message.metadata.message_type == "evaluate":
            return tamper(message, reply)
        return reply

    return ran(out, client, settings)


@pytest.mark.parametrize("value", [7.0, -1e308, float("inf")])
def test_a_forged_evaluation_was_absent(value: float, tmp_path: Path) -> None:
    def forged(_message: Message, reply: Message) -> Message:
        metrics = reply.content.metric_records["metrics"]
        for name in [name for name in metrics if name.startswith("accuracy")]:
            metrics[name] = [value]
        return reply

    bad, gone = evaluated(tmp_path / "bad", forged), evaluated(tmp_path / "gone", absent)
    assert bad["metric"] == gone["metric"]
    assert (bad["clients_evaluated"], gone["clients_evaluated"]) == (4, 4)


def test_a_stale_evaluation_was_absent(tmp_path: Path) -> None:
    """The bad node repeats its reply of round 1."""
    first: list[Any] = []

    def repeated(message: Message, reply: Message) -> Message:
        first.append(reply.content)
        return Message(first[0], reply_to=message)

    def gone(message: Message, reply: Message) -> Message:
        first.append(reply)
        return reply if len(first) == 1 else absent(message, reply)

    settings = {"evaluation.every": 1, "task.train_clients": 5, "task.validation_clients": 5}
    means = []
    for name, tamper in (("stale", repeated), ("gone", gone)):
        first.clear()
        evaluated(tmp_path / name, tamper, **settings)
        means.append([r["evaluation"] for r in RunDirectory(tmp_path / name).rounds()])
    assert means[0] == means[1]


@pytest.mark.parametrize("rule", ["krum", "multi-krum"])
def test_too_few_replies_for_a_rule_leave_the_model_as_it_was(rule: str, tmp_path: Path) -> None:
    """Of five clients two are away in round 2; against one bad client Krum needs all five."""

    def client(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        is_train = message.metadata.message_type == "train"
        bad = is_train and message.content.config_records["request"]["round"] == BAD_ROUND
        return absent(message, reply) if bad and context.node_id <= BAD_NODE else reply

    ran(tmp_path / "run", client, {"aggregation.rule": rule, "aggregation.malicious": 1})
    rounds = RunDirectory(tmp_path / "run").rounds()
    assert [record["clients"] for record in rounds] == [5, 0, 5]
    rejected = rounds[BAD_ROUND - 1]["rejected"]
    assert {each["reason"] for each in rejected} == {"NO_REPLY", "RULE"}
    assert "needs 5 updates to withstand 1, and there are 3" in rejected[-1]["detail"]
