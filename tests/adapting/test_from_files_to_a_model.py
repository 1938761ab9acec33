"""Twelve files of unlike sizes, words and gaps in them, to a comparison; a thirteenth adapted."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

import fedmaml as fm
from fedmaml.adapting.examples import inputs_of
from fedmaml.core.errors import DataError
from fedmaml.simulations.datasets import tables
from tests.commands import fedmaml_process
from tests.tables import rows_of, write, write_sites

pandas = pytest.importorskip("pandas")

MAX_CPU_SECONDS = 5.0


def cpu_seconds() -> float:
    """Return what the processes that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="its CPU seconds are counted otherwise")
def test_files_to_a_comparison_and_a_thirteenth_file_to_a_model(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_sites(tmp_path / "sites")
    write(tmp_path / "new.csv", rows_of(np.random.default_rng(99), 60))
    own = ("--data", "sites/*.csv", "--target", "y", "--set", 'task.ignore=["days"]')
    done = fedmaml_process("compare", "csv", *own, "--strategies", "fomaml", "--seeds", "2",
                           "--rounds", "30", "--json", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["strategy"] for row in json.loads(done.stdout)["rows"]}
    assert rows == {"local", "fedavg", "fedadam", "fomaml"}
    assert (tmp_path / "runs/compare-csv/comparison.md").is_file()

    run = tmp_path / "runs/compare-csv/fomaml/seed0"
    before = cpu_seconds()
    done = fedmaml_process("adapt", str(run), "--data", "new.csv", "--out", "model",
                           "--formats", "safetensors", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert cpu_seconds() - before < MAX_CPU_SECONDS
    done = fedmaml_process("adapt", str(run), "--data", "new.csv", "--out", "model", "--force",
                           cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    model = fm.load_model(tmp_path / "model")
    frame = pandas.read_csv(tmp_path / "new.csv")
    raw = inputs_of(model.model_, frame).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
    (found,) = session.run(None, {"rows": raw})
    np.testing.assert_allclose(found, model.predict_proba(frame), atol=1e-5)


@pytest.mark.slow
def test_a_million_rows_are_read_and_a_bad_one_is_named(tmp_path: Path) -> None:
    count, rng = 1_000_000, np.random.default_rng(0)
    for name in "abcd":
        write(tmp_path / f"{name}.csv", rows_of(rng, 30))
    frame = pandas.DataFrame({
        "age": rng.normal(60, 10, count).round(3), "sex": rng.choice(["m", "f"], count),
        "stage": rng.choice(["I", "II", "III"], count), "y": rng.choice(["ill", "well"], count),
        "days": 1,
    })  # fmt: skip
    frame.to_csv(tmp_path / "e.csv", index=False)
    scenario = fm.Csv(data=str(tmp_path / "*.csv"), target="y", ignore=("days",))
    (client,) = (one for one in range(5) if scenario.groups(one)["client"] == "e")
    found = scenario.statistics(client)
    assert float(found["count"]) == count
    assert float(found["sum"]) == pytest.approx(frame["age"].sum())
    text = frame["age"].astype(object)
    text.iloc[count - 2] = "4711-0815"
    frame.assign(age=text).to_csv(tmp_path / "e.csv", index=False)
    tables._load.cache_clear()
    with pytest.raises(DataError, match=r"e\.csv: column 'age', row 1000000: no number") as caught:
        fm.Csv(data=str(tmp_path / "*.csv"), target="y", ignore=("days",)).clients()
    assert "4711" not in str(caught.value)
