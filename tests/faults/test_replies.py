"""Bad replies beyond those of tests/server/test_bad_replies.py: faults of one node among five."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord

from fedmaml.client import app as client_module
from fedmaml.client.app import app as client_app
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
