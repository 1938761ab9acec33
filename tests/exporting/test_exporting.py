"""Runs in TensorBoard and MLflow, written and read back with their own libraries."""

import json
import math
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from fedmaml import cli, config, exporting, running
from fedmaml.core.errors import ConfigurationError, RunDirectoryError
from fedmaml.exporting import records
from fedmaml.runs.directory import RunDirectory

ROUNDS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Return the directory of a short run on digits that evaluates validation clients."""
    layer = {"scenario": "digits", "strategy": "fomaml", "rounds": ROUNDS, "evaluation.every": 2}
    path = tmp_path_factory.mktemp("runs") / "one"
    running.execute(config.resolve(layer), path)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of it, which a test may change."""
    path = tmp_path / "one"
    shutil.copytree(finished, path)
    return path


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard reads: name -> (round, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    accumulator.Reload()
    from tensorboard.util.tensor_util import make_ndarray

    scalars = {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }
    return scalars | {
        name: [(e.step, float(make_ndarray(e.tensor_proto))) for e in accumulator.Tensors(name)]
        for name in accumulator.Tags()["tensors"]
        if not name.startswith("_hparams_")
    }


# --- what is read -----------------------------------------------------------------------------


def test_points_are_the_rounds_and_the_evaluation(finished: Path) -> None:
    rounds = RunDirectory(finished).rounds()
    *points, evaluation = exporting.recorded(finished).points
    assert [point.round for point in points] == [1, 2, 3]
    for point, record in zip(points, rounds, strict=True):
        assert point.values["train/loss_after"] == record["metrics"]["loss_after"]
        assert point.values["cost/flops"] == record["cost"]["flops"]
        assert point.values["clients/used"] == 20
    assert "validation/accuracy/after" in points[1].values
    assert "validation/accuracy/after" not in points[0].values
    summary = RunDirectory(finished).summary()
    assert evaluation.round == ROUNDS
    assert evaluation.values["test/accuracy/after"] == summary["metric"]["after"]
    assert evaluation.values["test/accuracy/after_ci95_low"] == summary["metric"]["ci95"][0]


def test_time_passes_as_it_was_measured(finished: Path) -> None:
    seconds = [record["seconds"] for record in RunDirectory(finished).rounds()]
    recorded = exporting.recorded(finished)
    points = list(recorded.points)
    assert points[1].seconds - points[0].seconds == pytest.approx(seconds[1], abs=1e-5)
    assert points[-1].seconds == pytest.approx(recorded.started + sum(seconds), abs=1e-5)


def test_what_is_not_finite_is_nan(run: Path) -> None:
    lines = (run / "rounds.jsonl").read_text().splitlines()
    record = json.loads(lines[1]) | {"metrics": {"loss_after": None}}
    (run / "rounds.jsonl").write_text("\n".join([lines[0], json.dumps(record), lines[2]]) + "\n")
    values = [point.values.get("train/loss_after") for point in exporting.recorded(run).points]
    assert math.isnan(values[1])
    assert math.isfinite(values[2])


def test_a_run_cut_short_shows_what_it_has(run: Path) -> None:
    (run / "summary.json").unlink()
    with (run / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "metr')
    recorded = exporting.recorded(run)
    assert [point.round for point in recorded.points] == [1, 2, 3]
    assert recorded.outcome() == "cut short"
    (run / "rounds.jsonl").unlink()
    with pytest.raises(RunDirectoryError, match=r"no finished round yet.*--follow"):
        exporting.recorded(run)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no run"):
        exporting.recorded(tmp_path)


def test_runs_are_named_below_what_they_have_in_common(tmp_path: Path) -> None:
    paths = [tmp_path / "maml" / "seed-0", tmp_path / "fomaml" / "seed-0"]
    assert exporting.names_of(paths) == ["maml/seed-0", "fomaml/seed-0"]
    assert exporting.names_of(paths[:1]) == ["seed-0"]
    assert exporting.names_of([tmp_path / "a", tmp_path / "a" / "b"]) == ["a", "a/b"]
    with pytest.raises(ConfigurationError, match="is named twice"):
        exporting.names_of([tmp_path, tmp_path])


# --- TensorBoard ------------------------------------------------------------------------------


def test_tensorboard_reads_every_number_of_every_round(finished: Path, tmp_path: Path) -> None:
    assert exporting.to_tensorboard(exporting.recorded(finished), tmp_path) == ROUNDS + 1
    shown = events(tmp_path)
    for point in exporting.recorded(finished).points:
        for name, value in point.values.items():
            assert (point.round, pytest.approx(value, rel=1e-6)) in shown[name], name
    assert len(shown["train/loss_after"]) == ROUNDS


def test_tensorboard_has_settings_and_results_in_its_table(finished: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    exporting.to_tensorboard(exporting.recorded(finished), tmp_path)
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["strategy"].string_value == "fomaml"
    assert start.hparams["inner.lr"].number_value == 0.2


def test_tensorboard_files_are_not_doubled_unless_replaced(finished: Path, tmp_path: Path) -> None:
    exporting.to_tensorboard(exporting.recorded(finished), tmp_path)
    with pytest.raises(RunDirectoryError, match=r"holds TensorBoard event files already.*--force"):
        exporting.to_tensorboard(exporting.recorded(finished), tmp_path)
    exporting.to_tensorboard(exporting.recorded(finished), tmp_path, force=True)
    assert len(events(tmp_path)["train/loss_after"]) == ROUNDS


def test_a_run_is_followed_while_it_goes_on(run: Path, tmp_path: Path) -> None:
    summary = (run / "summary.json").read_text()
    lines = (run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run / "summary.json").unlink()
    (run / "rounds.jsonl").write_text(lines[0])
    count: list[int] = []
    out = tmp_path / "out"

    def follow() -> None:
        count.append(exporting.to_tensorboard(exporting.followed(run), out))

    follower = threading.Thread(target=follow)
    follower.start()
    _wait_for(lambda: bool(list(out.glob("*"))) and events(out).get("train/loss_after"))
    assert len(events(out)["train/loss_after"]) == 1  # flushed, though the run goes on
    with (run / "rounds.jsonl").open("a") as file:
        file.writelines(lines[1:])
    (run / "summary.json").write_text(summary)
    follower.join(timeout=30)
    assert count == [ROUNDS + 1]
    assert [step for step, _ in events(out)["train/loss_after"]] == [1, 2, 3]


def test_following_ends_when_the_run_fails(run: Path, monkeypatch) -> None:
    (run / "summary.json").unlink()
    (run / "error.txt").write_text("out of luck\n")
    monkeypatch.setattr(records, "_POLL_SECONDS", 0.01)
    recorded = exporting.followed(run)
    assert [point.round for point in recorded.points] == [1, 2, 3]
    assert recorded.outcome() == "failed"


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- MLflow -----------------------------------------------------------------------------------


@pytest.mark.slow  # MLflow takes seconds to be imported, and more to make a database
@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy's future, by MLflow
def test_mlflow_has_settings_every_round_and_the_outcome(finished: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    assert exporting.to_mlflow(exporting.recorded(finished), "one", uri=store) == ROUNDS + 1
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    number = client.get_experiment_by_name("fedmaml digits").experiment_id
    (logged,) = client.search_runs([number])
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "one"
    assert logged.data.params["strategy"] == "fomaml"
    assert logged.data.params["inner.steps"] == "5"
    history = client.get_metric_history(logged.info.run_id, "train/loss_after")
    expected = [record["metrics"]["loss_after"] for record in RunDirectory(finished).rounds()]
    assert [(metric.step, metric.value) for metric in history] == [*enumerate(expected, start=1)]
    summary = RunDirectory(finished).summary()
    assert logged.data.metrics["test/accuracy/after"] == summary["metric"]["after"]

    with pytest.raises(RunDirectoryError, match=r"is in MLflow already, as run .*--force"):
        exporting.to_mlflow(exporting.recorded(finished), "one", uri=store)
    exporting.to_mlflow(exporting.recorded(finished), "again", uri=store, force=True)
    assert [entry.info.run_name for entry in client.search_runs([number])] == ["again"]


# --- the command ------------------------------------------------------------------------------


def command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fedmaml", *arguments])
    cli.main()


def test_the_command_writes_one_folder_for_each_run(
    finished: Path, run: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "board"
    with pytest.raises(SystemExit) as end:
        command(
            monkeypatch, "export", str(finished), str(run), "--to", "tensorboard",
            "--out", str(out),
        )  # fmt: skip
    assert end.value.code == 0
    said = capsys.readouterr().err
    assert said.count("4 points, run finished") == 2
    assert f"tensorboard --logdir {out}" in said
    assert len(list(out.rglob("events.out.tfevents.*"))) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["one", "--to", "wandb"], "--to 'wandb': known: tensorboard, mlflow"),
        (["one", "two", "--to", "tensorboard", "--follow"], "follow one, or start the command"),
        (["nowhere", "--to", "tensorboard"], "nowhere holds no run"),
    ],
)
def test_mistakes_end_as_one_clear_line(
    arguments, text: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command(monkeypatch, "export", *arguments)
    assert end.value.code == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("sink", exporting.SINKS)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    sink: str, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, sink, None)  # what Python does where there is none
    where = ("one",) if sink == "mlflow" else (tmp_path,)
    write = getattr(exporting, f"to_{sink}")
    with pytest.raises(ConfigurationError, match=rf"pip install 'fedmaml\[{sink}\]'"):
        write(exporting.recorded(finished), *where)
