"""One bad client: the run goes on, bit for bit as if that client had been absent that round."""

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)

from fedmaml.client.app import app as client_app
from fedmaml.config import known_keys, resolve, to_run_config
from fedmaml.core.errors import BackendError, MessageError
from fedmaml.core.metrics import Range
from fedmaml.core.records import Rejection
from fedmaml.core.requests import EvaluateReply, EvaluateRequest
from fedmaml.messages.checks import REPLY, seal
from fedmaml.messages.evaluate import read_evaluate_reply, write_evaluate_reply
from fedmaml.messages.records import read_rejection, rejection_text
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.app import app as server_app
from fedmaml.simulations.backends.in_process import InProcessGrid

NODES = 5
BAD_NODE = 3  # node ids start at 2, so this one hosts client 1
BAD_ROUND = 2
Tamper = Callable[[Message, Message], Message]


Client = Callable[[Message, Context], Message]


def ran(out: Path, client: Client, settings: dict[str, Any]) -> dict[str, Any]:
    """Run digits on five one-client nodes that answer through ``client``; return the summary."""
    base = {
        "scenario": "digits", "strategy": "maml", "rounds": 3, "nodes": NODES, "clients": 0,
        "task.train_clients": NODES, "task.validation_clients": 0, "task.test_clients": NODES,
    }  # fmt: skip
    if "outer.lr" in known_keys("digits", settings.get("strategy", "maml")):
        base["outer.lr"] = 0.1
    config = resolve(base, settings)
    RunDirectory(out).create(config)
    run_config = to_run_config(config, out)
    grid = InProcessGrid(client, config.nodes, run_config)  # type: ignore[arg-type]
    server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))
    summary = RunDirectory(out).summary()
    assert summary is not None
    return summary


def run(
    out: Path,
    tamper: Tamper,
    settings: dict[str, Any] | None = None,
    bad_rounds: Sequence[int] = (BAD_ROUND,),
) -> dict[str, Any]:
    """Run three rounds, one node tampered with; return summary and records."""

    def tampered(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        is_train = message.metadata.message_type == "train"
        if is_train and message.metadata.dst_node_id == BAD_NODE:
            request = message.content.config_records["request"]
            if request["round"] in bad_rounds:
                return sealed_again(tamper(message, reply))
        return reply

    summary = ran(out, tampered, settings or {})
    return {"sha": summary["theta_sha256"], "rejected": summary["rejected_replies"],
            "rounds": RunDirectory(out).rounds()}  # fmt: skip


def sealed_again(reply: Message) -> Message:
    """Let who tampers be the node itself, which seals what it sends."""
    if reply.has_content() and isinstance(reply.content.get(REPLY), ConfigRecord):
        seal(reply.content)
    return reply


def absent(message: Message, reply: Message) -> Message:
    return Message(Error(5, "node unavailable"), reply_to=message)


def array_of(reply: Message) -> np.ndarray:
    return reply.content.array_records["update"]["theta"].numpy()


def with_array(reply: Message, values: np.ndarray, group: str = "theta") -> Message:
    reply.content["update"] = ArrayRecord({group: Array(values)})
    return reply


def filled(value: float) -> Tamper:
    def tamper(_message: Message, reply: Message) -> Message:
        values = array_of(reply).copy()
        values[0, 7] = value
        return with_array(reply, values)

    return tamper


def reshaped(shape: tuple[int, ...]) -> Tamper:
    return lambda _message, reply: with_array(reply, np.zeros(shape, np.float32))


def retyped(dtype: str) -> Tamper:
    return lambda _message, reply: with_array(reply, array_of(reply).astype(dtype))


def weighing(value: Any) -> Tamper:
    def tamper(_message: Message, reply: Message) -> Message:
        reply.content.metric_records["metrics"]["num-examples"] = value
        return reply

    return tamper


def saying(**entries: Any) -> Tamper:
    def tamper(_message: Message, reply: Message) -> Message:
        for key, value in entries.items():
            reply.content.config_records["reply"][key] = value
        return reply

    return tamper


def without_record(name: str) -> Tamper:
    def tamper(_message: Message, reply: Message) -> Message:
        del reply.content[name]
        return reply

    return tamper


def with_bytes(data: bytes) -> Tamper:
    def tamper(_message: Message, reply: Message) -> Message:
        reply.content.array_records["update"]["theta"].data = data
        return reply

    return tamper


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return a valid .npy header of a float32 array, without the array."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def raising(_message: Message, _reply: Message) -> Message:
    raise ValueError("patient 17 has no blood pressure")


def renamed(_message: Message, reply: Message) -> Message:
    return with_array(reply, array_of(reply), group="thetta")


def with_extra_array(_message: Message, reply: Message) -> Message:
    values = array_of(reply)
    reply.content["update"] = ArrayRecord({"theta": Array(values), "alpha": Array(values)})
    return reply


def a_foreign_app(message: Message, _reply: Message) -> Message:
    content = RecordDict(
        {"arrays": ArrayRecord({"w": Array(np.zeros(3))}), "m": MetricRecord({"num-examples": 3})}
    )
    return Message(content, reply_to=message)


def short_metric(_message: Message, reply: Message) -> Message:
    reply.content.metric_records["metrics"]["loss_after"] = [0.1, 0.2]
    return reply


def costing(**entries: Any) -> Tamper:
    def tamper(_message: Message, reply: Message) -> Message:
        for key, value in entries.items():
            reply.content.metric_records["metrics"][key.replace("_", "-")] = value
        return reply

    return tamper


def costing_nothing(_message: Message, reply: Message) -> Message:
    for key in ("flops", "peak-bytes"):
        del reply.content.metric_records["metrics"][key]
    return reply


def times(factor: float) -> Tamper:
    return lambda _message, reply: with_array(reply, np.float32(factor) * array_of(reply))


def without_entry(key: str) -> Tamper:
    def tamper(_message: Message, reply: Message) -> Message:
        del reply.content.config_records["reply"][key]
        return reply

    return tamper


def inventing(count: int) -> Tamper:
    return costing(**{f"accuracy{number}": [0.5] for number in range(count)})


def of_many_arrays(_message: Message, reply: Message) -> Message:
    one = Array(np.zeros(1, np.float32))
    reply.content["update"] = ArrayRecord({f"a{number}": one for number in range(100_000)})
    return reply


def with_unknown_record(_message: Message, reply: Message) -> Message:
    reply.content["more"] = ConfigRecord({"x": 1})
    return reply


def with_metrics_as_text(_message: Message, reply: Message) -> Message:
    reply.content["metrics"] = ConfigRecord({"num-examples": "30"})
    return reply


BAD = {
    "NaN": (filled(float("nan")), "NONFINITE"),
    "infinity": (filled(float("inf")), "NONFINITE"),
    "1e30": (filled(1e30), "RANGE"),
    "shape (1,)": (reshaped((1,)), "SHAPE"),
    "shape (1, 10)": (reshaped((1, 10)), "SHAPE"),
    "float64": (retyped("float64"), "DTYPE"),
    "int32": (retyped("int32"), "DTYPE"),
    "missing record": (without_record("update"), "KEYS"),
    "missing metrics": (without_record("metrics"), "KEYS"),
    "missing array": (renamed, "KEYS"),
    "extra array": (with_extra_array, "KEYS"),
    "metric of another length": (short_metric, "KEYS"),
    "no reply record": (without_record("reply"), "KEYS"),
    "another app": (a_foreign_app, "KEYS"),
    "num-examples -40": (weighing([-40.0]), "WEIGHT"),
    "num-examples 0": (weighing([0.0]), "WEIGHT"),
    "num-examples 1e12": (weighing([1e12]), "WEIGHT"),
    "num-examples NaN": (weighing([float("nan")]), "WEIGHT"),
    "num-examples 1.5": (weighing([1.5]), "WEIGHT"),
    "num-examples scalar": (weighing(-40), "WEIGHT"),
    "num-examples missing": (weighing([]), "WEIGHT"),
    "stale round": (saying(round=1), "STALE"),
    "other meta-parameters": (saying(base="0" * 16), "VERSION"),
    "other clients": (saying(clients=[4]), "CLIENTS"),
    "nobody": (saying(clients=[]), "CLIENTS"),
    "a sum that is none": (saying(form="sum"), "SHAPE"),
    "unknown form": (saying(form="product"), "KEYS"),
    "rejections that are none": (saying(rejected=["{"]), "KEYS"),
    "flops -1": (costing(flops=[-1]), "COST"),
    "flops 2^62 + 1": (costing(flops=[2**62 + 1]), "COST"),
    "flops 1.5": (costing(flops=[1.5]), "COST"),
    "flops NaN": (costing(flops=[float("nan")]), "COST"),
    "flops scalar": (costing(flops=7), "COST"),
    "flops of two clients": (costing(flops=[7, 7]), "COST"),
    "peak bytes -1": (costing(peak_bytes=[-1]), "COST"),
    "clients that are no list": (saying(clients=5), "KEYS"),
    "clients that are no numbers": (saying(clients=["a"]), "KEYS"),
    "rejections that are no list": (saying(rejected=5), "KEYS"),
    "a rejection of infinity": (saying(rejected=['["a", "b", [Infinity]]']), "KEYS"),
    "array bytes of a zip file": (with_bytes(b"PK\x03\x04" + bytes(50)), "KEYS"),
    "array bytes of another shape": (with_bytes(npy_header((10**13,))), "KEYS"),
    "array bytes cut short": (with_bytes(npy_header((1, 2410))), "KEYS"),
    "raises": (raising, "RAISED"),
    "goes away": (absent, "NO_REPLY"),
    "num-examples 1e9": (weighing([1e9]), "WEIGHT"),
    "num-examples of one more": (weighing([51.0]), "WEIGHT"),
    "1,000 times too large": (times(1e3), "NORM"),
    "1,000,000 times too large": (times(1e6), "NORM"),
    "another version": (saying(version="0.0.1"), "VERSION"),
    "no version": (without_entry("version"), "VERSION"),
    "an invented metric": (costing(accuracy=[1.0]), "KEYS"),
    "100,000 invented metrics": (inventing(100_000), "KEYS"),
    "100,000 values of a metric": (costing(loss_after=[0.5] * 100_000), "KEYS"),
    "100,000 arrays": (of_many_arrays, "KEYS"),
    "200 MB of zeros": (reshaped((50_000_000,)), "SHAPE"),
    "an unknown record": (with_unknown_record, "KEYS"),
    "a record of another type": (with_metrics_as_text, "KEYS"),
    "a rejection of 10 MB": (saying(rejected=["x" * 10_000_000]), "KEYS"),
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("oracle") / "run", absent)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("good") / "run", lambda _message, reply: reply)


def test_absence_of_a_client_changes_the_result(
    oracle: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    assert oracle["sha"] != undisturbed["sha"]
    assert undisturbed["rejected"] == 0
    assert [record["clients"] for record in oracle["rounds"]] == [5, 4, 5]


@pytest.mark.parametrize("name", BAD)
def test_bad_reply_equals_absence_and_is_recorded_with_its_reason(
    name: str, tmp_path: Path, oracle: dict[str, Any]
) -> None:
    tamper, reason = BAD[name]
    result = run(tmp_path / "run", tamper)
    assert result["sha"] == oracle["sha"]
    assert result["rejected"] == 1
    (rejection,) = result["rounds"][BAD_ROUND - 1]["rejected"]
    assert (rejection["reason"], rejection["clients"]) == (reason, [1])
    assert rejection["node"] == str(BAD_NODE)
    assert rejection["detail"]


# --- compressed replies --------------------------------------------------------------------------

ENTRIES, SCALES = 2410, 10  # of the network of digits, and of QSGD's buckets
KEPT = 25  # of top-k with a fraction of 0.01


def part(dtype: str, index: int, value: float, first: int = 0) -> Tamper:
    """Put a value into the row of bytes, which holds numbers of a type from ``first`` on."""

    def tamper(_message: Message, reply: Message) -> Message:
        row, size = array_of(reply).copy(), np.dtype(dtype).itemsize
        row[0, first + index * size :][:size].view(dtype)[0] = value
        return with_array(reply, row)

    return tamper


def one_position_twice(_message: Message, reply: Message) -> Message:
    row = array_of(reply).copy()
    positions = row[0, : 4 * KEPT].view("<i4")
    positions[1] = positions[0]
    return with_array(reply, row)


def out_of_order(_message: Message, reply: Message) -> Message:
    row = array_of(reply).copy()
    positions = row[0, : 4 * KEPT].view("<i4")
    positions[[0, 1]] = positions[[1, 0]]
    return with_array(reply, row)


def of_length(length: int) -> Tamper:
    return lambda _message, reply: with_array(reply, np.zeros((1, length), np.uint8))


def not_compressed(_message: Message, reply: Message) -> Message:
    reply.content.config_records["reply"]["form"] = "stack"
    return with_array(reply, np.zeros((1, ENTRIES), np.float32))


def a_sum(_message: Message, reply: Message) -> Message:
    reply.content.config_records["reply"]["form"] = "sum"
    return with_array(reply, np.full((3, ENTRIES), np.nan))


BAD_CODES: dict[str, list[tuple[Tamper, str]]] = {
    "top-k": [
        (part("<i4", KEPT - 1, ENTRIES), "CODE"),  # a position past the end
        (part("<i4", 0, -1), "CODE"),
        (one_position_twice, "CODE"),
        (out_of_order, "CODE"),
        (part("<f4", 3, float("nan"), 4 * KEPT), "NONFINITE"),
        (part("<f4", 3, 1e30, 4 * KEPT), "RANGE"),
        (of_length(8 * (KEPT + 1)), "SHAPE"),  # another fraction
        (a_sum, "NONFINITE"),
        (with_bytes(npy_header((10**13,))), "KEYS"),
        (raising, "RAISED"),
    ],
    "qsgd-8": [
        (part("i1", 5, -128, 4 * SCALES), "CODE"),  # a level that there is not
        (part("<f4", 0, -0.1), "CODE"),  # a negative scale
        (of_length(ENTRIES // 2 + 4 * SCALES), "SHAPE"),  # 4 bits
    ],
    "qsgd-4": [
        (part("u1", 5, 0, 4 * SCALES), "CODE"),  # two levels of -8
        (part("<f4", 0, float("inf")), "NONFINITE"),
        (part("<f4", 9, float("nan")), "NONFINITE"),
        (part("<f4", 0, 1e30), "RANGE"),
        (of_length(0), "SHAPE"),
        (retyped("int8"), "DTYPE"),
        (not_compressed, "KEYS"),
    ],
    "float16": [
        (part("<f2", 7, float("nan")), "NONFINITE"),
        (part("<f2", 7, float("-inf")), "NONFINITE"),
    ],
}


@pytest.mark.parametrize("method", BAD_CODES)
def test_bad_codes_equal_absence_and_are_recorded_with_their_reasons(
    method: str, tmp_path: Path
) -> None:
    """A bad code in every round but the last.

    Its client thinks that it was used, so it must have no residual.
    """
    cases = BAD_CODES[method]
    bad = range(1, len(cases) + 1)
    settings = {"compression.method": method, "compression.error_feedback": False,
                "rounds": len(cases) + 1}  # fmt: skip
    if method == "top-k":
        settings["compression.fraction"] = 0.01

    def in_turn(message: Message, reply: Message) -> Message:
        tamper, _ = cases[message.content.config_records["request"]["round"] - 1]
        return tamper(message, reply)

    result = run(tmp_path / "bad", in_turn, settings, bad)
    gone = run(tmp_path / "gone", absent, settings, bad)
    good = run(tmp_path / "good", absent, settings, ())
    assert result["sha"] == gone["sha"] != good["sha"]
    rejected = [record["rejected"] for record in result["rounds"][:-1]]
    assert [[(r["reason"], r["clients"]) for r in each] for each in rejected] == [
        [(reason, [1])] for _, reason in cases
    ]
    assert all(each[0]["detail"] for each in rejected)
    assert result["rounds"][-1]["rejected"] == []


def test_a_code_that_nobody_asked_for_is_refused(tmp_path: Path, oracle: dict[str, Any]) -> None:
    def tamper(_message: Message, reply: Message) -> Message:
        reply.content.config_records["reply"]["form"] = "compressed"
        return reply

    result = run(tmp_path / "run", tamper)
    assert result["sha"] == oracle["sha"]
    (rejection,) = result["rounds"][BAD_ROUND - 1]["rejected"]
    assert rejection["reason"] == "KEYS"
    assert "the update is a 'compressed', asked was a stack or sum" in rejection["detail"]


def test_a_client_need_not_say_what_it_computed(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    result = run(tmp_path / "run", costing_nothing)
    assert (result["sha"], result["rejected"]) == (undisturbed["sha"], 0)
    costs = [record["cost"] for record in result["rounds"]]
    assert [cost["updates"] for cost in costs] == [5, 5, 5]
    assert [cost["updates_measured"] for cost in costs] == [5, 4, 5]
    assert costs[1]["flops"] * 5 == costs[0]["flops"] * 4


def test_text_of_a_client_error_never_reaches_the_server(tmp_path: Path) -> None:
    result = run(tmp_path / "run", raising)
    assert "patient 17" not in json.dumps(result["rounds"])


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_robust_rules_survive_nan_too(rule: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"aggregation.rule": rule}
    if "krum" in rule:
        settings["aggregation.malicious"] = 0
    if rule == "multi-krum":
        settings["aggregation.selected"] = 3
    bad = run(tmp_path / "bad", filled(float("nan")), settings)
    gone = run(tmp_path / "gone", absent, settings)
    assert bad["sha"] == gone["sha"]


def test_all_replies_bad_keeps_the_model_and_goes_on(tmp_path: Path) -> None:
    config = resolve({"scenario": "quadratic", "strategy": "maml", "rounds": 2})

    def broken(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            return Message(RecordDict({"x": ConfigRecord({})}), reply_to=message)
        return client_app(message=message, context=context)

    out = tmp_path / "run"
    RunDirectory(out).create(config)
    run_config = to_run_config(config, out)
    grid = InProcessGrid(broken, 1, run_config)  # type: ignore[arg-type]
    server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))
    records = RunDirectory(out).rounds()
    assert [record["clients"] for record in records] == [0, 0]
    assert all(record["rejected"][0]["reason"] == "KEYS" for record in records)
    assert RunDirectory(out).load_meta()["theta"]["head.weight"].abs().sum() == 0  # as it began


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_run_in_which_nobody_answers_ends_without_a_summary(stage: str, tmp_path: Path) -> None:
    def gone(message: Message, context: Context) -> Message:
        late = message.metadata.message_type == stage and (
            stage == "evaluate" or message.content.config_records["request"]["round"] == 3
        )
        reply = client_app(message=message, context=context)
        return absent(message, reply) if late else reply

    when = "round 3" if stage == "train" else "the evaluation"
    with pytest.raises(BackendError, match=f"nobody answered in {when} .*what was finished before"):
        ran(tmp_path / "x", gone, {})
    directory = RunDirectory(tmp_path / "x")
    assert directory.summary() is None
    assert "nobody answered in" in directory.failure()
    state = directory.newest_state().state
    assert state is not None
    assert state.round == len(directory.rounds()) == (2 if stage == "train" else 3)


# --- evaluations


NAMES = ("accuracy:after", "accuracy:before")
RANGES = dict.fromkeys(NAMES, Range(0, 1, 0))
ASKED = EvaluateRequest(4, "test", (3,), {}, base="b" * 16)


@pytest.mark.parametrize(
    "values", [{}, {"accuracy:after": [0.5]}, {key: [0.5] for key in (*NAMES, "extra")}]
)
def test_an_evaluation_has_the_values_that_were_asked_for(values: dict[str, list[float]]) -> None:
    """Otherwise one node could take a metric away from all others."""
    sound = EvaluateReply((3,), {key: [0.5] for key in NAMES}, ())
    assert read_evaluate_reply(write_evaluate_reply(sound, ASKED), ASKED, RANGES) == sound
    bad = write_evaluate_reply(EvaluateReply((3,), values, ()), ASKED)
    with pytest.raises(MessageError, match="other metrics"):
        read_evaluate_reply(bad, ASKED, RANGES)


@pytest.mark.parametrize("value", [7.0, -1e308, -0.1, float("inf")])
def test_a_metric_outside_its_range_is_refused(value: float) -> None:
    bad = EvaluateReply((3,), {NAMES[0]: [value], NAMES[1]: [0.5]}, ())
    with pytest.raises(MessageError, match=r"METRIC: accuracy:after is .* allowed are 0 to 1"):
        read_evaluate_reply(write_evaluate_reply(bad, ASKED), ASKED, RANGES)


@pytest.mark.parametrize("value", [0.0, 1.0, 1 + 1e-7, float("nan")])
def test_a_metric_in_its_range_or_undefined_is_taken(value: float) -> None:
    sound = EvaluateReply((3,), {NAMES[0]: [value], NAMES[1]: [0.5]}, ())
    read = read_evaluate_reply(write_evaluate_reply(sound, ASKED), ASKED, RANGES)
    assert str(read.values) == str(sound.values)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(ASKED, round=3), "STALE"),
        (replace(ASKED, base="c" * 16), "VERSION"),
        (replace(ASKED, clients=(4,)), "CLIENTS"),
    ],
)
def test_an_evaluation_of_another_request_is_refused(other: EvaluateRequest, reason: str) -> None:
    reply = EvaluateReply(other.clients, {key: [0.5] for key in NAMES}, ())
    with pytest.raises(MessageError) as refused:
        read_evaluate_reply(write_evaluate_reply(reply, other), ASKED, RANGES)
    assert refused.value.reason == reason


def with_value(value: float) -> Tamper:
    return costing(**{"accuracy:after": [value]})


FORGED: dict[str, tuple[Tamper, str]] = {
    "accuracy 7": (with_value(7.0), "METRIC"),
    "-1e308": (with_value(-1e308), "METRIC"),
    "another round": (saying(round=77), "STALE"),
    "other meta-parameters": (saying(base="0" * 16), "VERSION"),
    "another version": (saying(version="0.0.1"), "VERSION"),
    "other clients": (saying(clients=[5]), "CLIENTS"),
    "100,000 names": (inventing(100_000), "KEYS"),
    "no metrics": (without_record("metrics"), "KEYS"),
    "raises": (raising, "RAISED"),
    "goes away": (absent, "NO_REPLY"),
}


@pytest.fixture(scope="module")
def evaluated_without_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluated(tmp_path_factory.mktemp("oracle") / "run", absent)


def evaluated(out: Path, tamper: Tamper) -> dict[str, Any]:
    """Run with five nodes, of which one tampers with its evaluations; return summary and rows."""

    def tampered(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        bad = message.metadata.message_type == "evaluate"
        if bad and message.metadata.dst_node_id == BAD_NODE:
            return sealed_again(tamper(message, reply))
        return reply

    settings = {"rounds": 2, "task.validation_clients": NODES, "evaluation.every": 1,
                "evaluation.select": "best"}  # fmt: skip
    summary = ran(out, tampered, settings)
    curve = [record["evaluation"] for record in RunDirectory(out).rounds()]
    kept = {key: summary[key] for key in ("metric", "evaluated_round", "clients_evaluated")}
    return kept | {"rows": RunDirectory(out).clients(), "curve": curve}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_evaluation_equals_absence(
    name: str,
    tmp_path: Path,
    evaluated_without_one: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tamper, reason = FORGED[name]
    assert evaluated(tmp_path / "run", tamper) == evaluated_without_one
    lines = [each.message for each in caplog.records if "left out clients" in each.message]
    assert len(lines) == 3  # two rounds and the end
    assert all(f": {reason}: " in line and len(line) < 400 for line in lines)


def test_a_flipped_bit_of_the_body_is_refused(tmp_path: Path, oracle: dict[str, Any]) -> None:
    """Without the hash it would be another update, of numbers as good as these."""

    def tampered(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        request = message.content.config_records.get("request", {"round": 0})
        if message.metadata.dst_node_id == BAD_NODE and request["round"] == BAD_ROUND:
            array = reply.content.array_records["update"]["theta"]
            data = bytearray(array.data)
            data[-4] ^= 1  # of the mantissa of the last number
            array.data = bytes(data)
        return reply

    summary = ran(tmp_path / "run", tampered, {})
    assert summary["theta_sha256"] == oracle["sha"]
    (rejection,) = RunDirectory(tmp_path / "run").rounds()[BAD_ROUND - 1]["rejected"]
    assert rejection["reason"] == "HASH"


def test_100_000_invented_names_are_refused_at_once() -> None:
    reply = EvaluateReply((3,), {f"accuracy{number}": [0.5] for number in range(100_000)}, ())
    written = write_evaluate_reply(reply, ASKED)
    started = time.process_time()
    with pytest.raises(MessageError, match="has 100001 entries, at most 16") as refused:
        read_evaluate_reply(written, ASKED, RANGES)
    assert time.process_time() - started < 0.1
    assert len(str(refused.value)) < 300


def test_words_of_a_rejection_are_cut_and_printable_and_it_names_clients() -> None:
    long = Rejection("RAISED", "\x1b[2J" + "x" * 10_000_000, "", (1,))
    kept = read_rejection(rejection_text(long))
    assert len(kept.detail) < 1000
    assert kept.detail.isprintable()
    with pytest.raises(MessageError, match="names no client"):
        read_rejection(rejection_text(Rejection("RAISED", "x")))
