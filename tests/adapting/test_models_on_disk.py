"""A model that is taken away: its files, its card, and predictions from them."""

import csv
import importlib.util
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedmaml as fm
from fedmaml.adapting import formats, model
from fedmaml.adapting.estimators import SiteModel
from fedmaml.adapting.examples import inputs_of
from fedmaml.core import networks
from fedmaml.core.errors import ConfigurationError, RunDirectoryError, UnsupportedProblemError
from fedmaml.simulations.datasets import tables
from fedmaml.strategies import CATALOGUE
from fedmaml.strategies.comparing import by_comparison
from tests.adapting.conftest import KINDS, Runs
from tests.api import test_networks_of_others as others
from tests.catalogue import slow_unless
from tests.commands import fedmaml
from tests.conftest import REGRESSORS

pytestmark = pytest.mark.usefixtures("_catalogues_as_before")

SOME = ("safetensors",)


def fitted(runs: Runs, kind: str) -> SiteModel:
    return fm.load(runs.folder / kind).adapt(*runs.site(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_read_as_it_was_written_without_the_run(
    runs: Runs, kind: str, tmp_path: Path
) -> None:
    site, (frame, _) = fitted(runs, kind), runs.site(kind)
    site.save(tmp_path / "model", SOME)
    path = tmp_path / "model" / "model.json"
    gone = json.loads(path.read_text())
    gone["run"] = str(tmp_path / "gone")
    gone["config"]["task"]["data"] = str(tmp_path / "gone" / "*.csv")
    path.write_text(json.dumps(gone))
    again = fm.load_model(tmp_path / "model")
    assert type(again) is type(site)
    np.testing.assert_array_equal(again.predict(frame), site.predict(frame))
    if kind == "classification":
        np.testing.assert_array_equal(again.predict_proba(frame), site.predict_proba(frame))


def test_a_run_is_adapted_without_its_clients_files(runs: Runs, tmp_path: Path) -> None:
    """What the run kept of the columns, and its shared statistics, are enough."""
    (frame, y), moved = runs.site("regression"), tmp_path / "run"
    shutil.copytree(runs.folder / "regression", moved)
    config = moved / "config.toml"
    here = fm.load(runs.folder / "regression").adapt(frame, y)
    model._read.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "load", lambda *_: pytest.fail("a file was read"))
        assert "sites" in config.read_text()
        there = fm.load(moved).adapt(frame, y)
    np.testing.assert_array_equal(there.predict(frame), here.predict(frame))


def test_a_run_without_rounds_keeps_its_totals_or_says_what_is_missing(
    runs: Runs, tmp_path: Path
) -> None:
    """`local` has no line in rounds.jsonl; its one state has the totals all the same."""
    sites = shutil.copytree(runs.sites, tmp_path / "sites")
    scenario = fm.Csv(data=str(sites / "*.csv"), target="y", ignore=("days",))
    run = fm.run(scenario, "local", rounds=0, out=tmp_path / "run")
    frame, y = runs.site("classification")
    here = run.adapt(frame, y).predict_proba(frame)
    shutil.rmtree(sites)
    model._read.cache_clear()
    tables._load.cache_clear()
    there = fm.load(run.path).adapt(frame, y).predict_proba(frame)
    np.testing.assert_array_equal(there, here)
    (run.path / "journal.safetensors").unlink()
    model._read.cache_clear()
    message = (
        r"keeps no totals of the training clients .*no file '.*sites/\*\.csv'.*the data it was"
    )
    with pytest.raises(ConfigurationError, match=message):
        fm.load(run.path).adapt(frame, y)


TAKEN = ("protonet", "meta_sgd", "fedrep", "local", "r2d2", *REGRESSORS)


@pytest.mark.parametrize("strategy", [slow_unless(name in TAKEN, name) for name in CATALOGUE])
def test_every_kind_of_adaptation_can_be_taken_away(strategy: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = {name: (rng.normal(size=(20, 3)), rng.integers(3, size=20)) for name in "abcdef"}
    if numbers := strategy in REGRESSORS:
        data = {name: (x, x @ rng.normal(size=3)) for name, (x, _) in data.items()}
    rounds = 0 if strategy == "local" else 2
    run = fm.run(fm.from_clients(data), strategy, rounds=rounds, out=tmp_path / "run")
    x, y = data["a"]
    site = run.adapt(x, y)
    site.save(tmp_path / "model", SOME)
    again = fm.load_model(tmp_path / "model")
    before, after = (
        model.predict(x) if numbers else model.predict_proba(x) for model in (site, again)
    )
    np.testing.assert_allclose(before, after, rtol=1e-6)  # tensors are contiguous in files
    card = (tmp_path / "model" / "README.md").read_text()
    compares = CATALOGUE[strategy].adapt is by_comparison
    assert ("An embedding of each example of the site" in card) == compares


@pytest.mark.slow
def test_files_of_all_formats_predict_the_same(runs: Runs, tmp_path: Path) -> None:
    """torch.export to the bit, ONNX to 1e-5, for other numbers of rows and missing values."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for kind in KINDS:
        site, (frame, _) = fitted(runs, kind), runs.site(kind)
        site.save(tmp_path / kind)
        rows = inputs_of(site.model_, frame)
        assert rows.isnan().any()
        assert len(rows) == 60
        expected = site.network_(rows).numpy()
        program = torch.export.load(tmp_path / kind / "model.pt2").module()
        np.testing.assert_array_equal(program(rows).numpy(), expected)
        session = onnxruntime.InferenceSession(tmp_path / kind / "model.onnx")
        (found,) = session.run(None, {"rows": rows.numpy()})
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen", "tied", "gru", "attention", "batch statistics"])
def test_files_of_own_networks_predict_the_same(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    made = {
        "frozen": others.frozen,
        "tied": others.Tied,
        "gru": lambda: others.Recurrent(lambda: networks.GRU(others.FEATURES, 8)),
        "attention": lambda: others.Attentive(lambda: networks.MultiheadAttention(6, 2)),
        "batch statistics": lambda: others.Net(
            lambda: nn.BatchNorm1d(8, track_running_stats=False)
        ),
    }[name]
    rng = np.random.default_rng(0)
    shape = (12, others.ROWS, others.FEATURES)
    data = {client: (rng.normal(size=shape), rng.integers(2, size=12)) for client in "abcdef"}
    run = fm.run(fm.from_clients(data, network=made), "fomaml", rounds=2, out=tmp_path / "run")
    site = run.adapt(*data["a"])
    site.save(tmp_path / "model")
    x = data["b"][0]
    rows, expected = torch.tensor(x).flatten(1), site.predict_proba(x)
    np.testing.assert_array_equal(fm.load_model(tmp_path / "model").predict_proba(x), expected)
    program = torch.export.load(tmp_path / "model" / "model.pt2").module()
    np.testing.assert_allclose(program(rows).numpy(), expected, atol=1e-7)
    session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
    (found,) = session.run(None, {"rows": rows.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_card_says_what_the_run_and_the_site_say(runs: Runs, tmp_path: Path) -> None:
    site = fitted(runs, "regression")
    site.save(tmp_path / "model", SOME)
    card = (tmp_path / "model" / "README.md").read_text()
    summary = fm.load(runs.folder / "regression").summary
    for words in (
        "adapted to 60 examples of one site",
        "| sex | one-hot of `f`, `m` |",
        "`days`, a number in its own unit",
        f"`{summary['theta_sha256']}`",
        f"| rmse (days) | {summary['metric']['before']:.3g} | {summary['metric']['after']:.3g} |",
        site.gain_.advice,
    ):
        assert words in card
    assert "None" not in card
    assert not {*"{}"} & {*card}


def test_commands_adapt_and_predict(runs: Runs, tmp_path: Path) -> None:
    model, run = tmp_path / "model", str(runs.folder / "classification")
    given = ("adapt", run, "--data", str(runs.new), "--out", str(model),
             "--formats", "safetensors")  # fmt: skip
    done = fedmaml(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    site = fitted(runs, "classification")
    assert site.gain_.advice in done.stdout
    assert {path.name for path in model.iterdir()} == {"README.md", "model.json",
                                                       "model.safetensors"}  # fmt: skip
    assert "holds a model already" in fedmaml(*given, cwd=tmp_path).stderr
    unlabelled = tmp_path / "unlabelled.csv"
    frame, _ = runs.site("classification")
    frame.drop(columns="y").to_csv(unlabelled, index=False)
    done = fedmaml("predict", "model", "--data", str(unlabelled), "--out", "p.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert [row["row"] for row in rows] == [str(2 + row) for row in range(60)]
    assert [row["prediction"] for row in rows] == site.predict(frame).tolist()
    ill = [float(row["probability of ill"]) for row in rows]
    np.testing.assert_allclose(ill, site.predict_proba(frame)[:, 0], atol=1e-6)
    assert "p.csv exists" in fedmaml("predict", "model", "--data", str(unlabelled), "--out",
                                     "p.csv", cwd=tmp_path).stderr  # fmt: skip
    shown = fedmaml("predict", "model", "--data", str(unlabelled), cwd=tmp_path)
    assert shown.stdout == (tmp_path / "p.csv").read_text()
    records = json.loads(
        fedmaml("predict", "model", "--data", str(unlabelled), "--json", cwd=tmp_path).stdout
    )
    assert [str(each["row"]) for each in records] == [row["row"] for row in rows]
    assert [each["prediction"] for each in records] == [row["prediction"] for row in rows]
    assert [each["probabilities"]["ill"] for each in records] == ill


def test_json_of_adapting_holds_the_gain(runs: Runs, tmp_path: Path) -> None:
    run = str(runs.folder / "regression")
    done = fedmaml("adapt", run, "--data", str(runs.new), "--out", "m", "--formats",
                   "safetensors", "--steps", "0", "--json", cwd=tmp_path)  # fmt: skip
    said = json.loads(done.stdout)
    assert said["gain"]["loss_before"] == said["gain"]["loss_after"]
    assert said["gain"]["advice"].startswith("do not adapt")
    assert "Adaptation: none" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapt", "{run}", "--data", "{new}", "--out", "m", "--formats", "pickle"],
         "format 'pickle': known: safetensors, torch, onnx"),
        (["adapt", "{run}", "--data", "{sites}/*.csv", "--out", "m"], "names 12 files"),
        (["adapt", "{run}", "--data", "{new}", "--out", "{sites}"], "holds other files"),
        (["adapt", "nowhere", "--data", "{new}", "--out", "m"], "nowhere"),
        (["predict", "nowhere", "--data", "{new}"], "holds no model: make one with fedmaml adapt"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(
    runs: Runs, arguments: Sequence[str], message: str, tmp_path: Path
) -> None:
    places = {"run": runs.folder / "regression", "new": runs.new, "sites": runs.sites}
    done = fedmaml(*(one.format(**places) for one in arguments), cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_anything_is_written(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    assert formats.chosen_formats(None) == ("safetensors", "torch")
    with pytest.raises(ConfigurationError, match=r"needs onnxscript: pip install 'fedmaml\[onnx\]"):
        fitted(runs, "regression").save(tmp_path / "model", ["onnx"])
    assert not (tmp_path / "model").exists()


def test_a_run_without_tables_is_adapted_from_python(tmp_path: Path, runs: Runs) -> None:
    fm.run("sinusoid", "fomaml", rounds=1, clients=2, out=tmp_path / "run")
    done = fedmaml("adapt", "run", "--data", str(runs.new), "--out", "m", cwd=tmp_path)
    assert "knows no columns: adapt it from Python, fm.load(" in done.stderr


def test_damaged_and_foreign_models_are_refused(runs: Runs, tmp_path: Path) -> None:
    folder = fitted(runs, "regression").save(tmp_path / "model", SOME)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    with pytest.raises(RunDirectoryError, match=r"model\.safetensors is damaged"):
        fm.load_model(folder)
    fitted(runs, "classification").save(tmp_path / "other", SOME)
    description = folder / "model.json"
    text = description.read_text()
    weights.unlink()
    with pytest.raises(RunDirectoryError, match=r"has no model\.safetensors"):
        fm.load_model(folder)
    description.write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(RunDirectoryError, match="has format 9, and this is fedmaml"):
        fm.load_model(folder)
    description.write_text("{")
    with pytest.raises(RunDirectoryError, match=r"model\.json is damaged"):
        fm.load_model(folder)


def test_tensors_out_of_reach_are_refused_with_what_to_write(runs: Runs, tmp_path: Path) -> None:
    site: Any = fitted(runs, "regression")
    inside = site.network_.predictor
    network = type(site.network_)(site.model_, lambda x: inside(x))
    site.network_ = network
    with pytest.raises(UnsupportedProblemError, match=r"return functools\.partial\(function"):
        site.save(tmp_path / "model", SOME)
    assert not (tmp_path / "model").exists()
