"""Pictures of what models predict: the numbers behind them are those of the runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.acting.models import model_of
from benchmarks.drawing import draw_named
from benchmarks.pictures import jmak, sky
from benchmarks.pictures.__main__ import DRAWN
from benchmarks.pictures.graph_nodes import graph_of, places_of
from benchmarks.pictures.inverse_design import hits_of
from benchmarks.pictures.jmak import (
    NEAREST,
    curves_of,
    draw_measured,
    errors_by_steps,
    spread_clients,
)
from benchmarks.pictures.malaria import read_by
from benchmarks.pictures.materials import Parity, parity_of
from benchmarks.pictures.molecules import by_support, sorted_assays
from benchmarks.pictures.molecules import draw as draw_assays
from benchmarks.pictures.patients import errors, start_of
from benchmarks.pictures.payload import HEAVIEST, arms_near, estimate_of, mass_errors
from benchmarks.pictures.runs import median_client, reference_of, values_of
from benchmarks.pictures.sky import accuracies, mix_of, plates_of
from benchmarks.pictures.sky import draw as draw_plates
from benchmarks.pictures.sky_anomaly import plane_of
from benchmarks.pictures.synthesis import numbers_at, policies_of, spelled, surface_of, trials_of
from fedmaml.computing.references import EvaluatedReference, fit_references
from fedmaml.config import resolve
from fedmaml.core.metrics import roc_auc
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.scenarios import Payload, Synthesis
from fedmaml.simulations.systems.trials import regrets

FEW = {"train_clients": 4, "validation_clients": 2, "test_clients": 3}
TINY: dict[str, dict[str, Any]] = {
    "graph_nodes": {"strategies": ["maml"], "task": FEW},
    "malaria": {"strategies": ["snail"], "data": True},
    "malaria_flipped": {"scenario": "malaria", "strategies": ["snail"], "task": {"flip": True},
                        "data": True},
    "patients": {"strategies": ["fedavg", "meta_sgd", "maml", "reptile", "fomaml"], "task": FEW},
    "payload": {"strategies": ["fedavg", "meta_sgd", "maml"], "task": FEW},
    "jmak": {"strategies": ["fedavg", "maml"], "task": FEW,
             "fedavg": {"adaptation": {"steps": 3}}},
    "jmak_measured": {"scenario": "jmak", "strategies": ["fedavg"],
                      "task": {"data": "measured"}, "data": True},
    "inverse_design": {"strategies": ["fedavg", "reptile", "maml", "meta_sgd"], "task": FEW},
    "materials": {"strategies": ["fedavg", "ridge_head"], "data": True},
    "sky": {"strategies": ["fedavg", "maml"], "data": True},
    "sky_anomaly": {"strategies": ["protonet"], "data": True},
    "synthesis": {"strategies": ["fedavg"], "task": FEW},
}  # fmt: skip
"""System -> strategies that its picture shows, and settings that make their runs small."""
DRAWABLE = [name for name in TINY if name in DRAWN and name not in ("jmak_measured", "sky")]
"""All but those whose references are too slow for tests."""


def make(folder: Path, name: str, data_dir: Path) -> None:
    """Make the runs of a system as the atlas would, tiny ones, in a folder of all runs."""
    system = {"scenario": name, "task": {}} | TINY[name]
    for strategy in system["strategies"]:
        layer = {"scenario": system["scenario"], "strategy": strategy, "rounds": 1, "clients": 2}
        if system.get("data"):  # references are evaluated on test clients, and slow on images
            layer |= {"data_dir": str(data_dir)}
            layer |= {"evaluation": {"split": "validation", "largest": 3}}
        layer |= system.get(strategy, {})
        execute(resolve(layer | {"task": system["task"]}), folder / name / strategy / "seed0")


Made = Callable[..., Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Made:
    """Makes the runs of systems where they are missing; returns the folder of all runs."""
    folder = tmp_path_factory.mktemp("runs")

    def make_missing(*names: str) -> Path:
        for name in names:
            if not (folder / name).exists():
                make(folder, name, data_dir)
        return folder

    return make_missing


@pytest.mark.parametrize("name", DRAWABLE)
def test_the_same_runs_give_the_same_bytes(
    name: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jmak, "STEPS", (0, 1, 2))  # 1000 take seconds
    runs = made(name, *(other for other in TINY if other == f"{name}_flipped"))
    for file in ("one.svg", "two.svg"):
        DRAWN[name].draw(runs, tmp_path / file)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").stat().st_size > 5000


def test_a_picture_is_also_put_beside_its_runs(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = made("graph_nodes")
    monkeypatch.setattr(
        "sys.argv", ["pictures", "graph_nodes", "--runs", str(runs), "--out", str(tmp_path)]
    )
    draw_named("", DRAWN)
    (beside,) = (runs / "graph_nodes" / "pictures").glob("*.svg")
    assert beside.read_bytes() == (tmp_path / "graph_nodes.svg").read_bytes()
    assert beside.stem == DRAWN["graph_nodes"].caption


def test_the_median_client_has_as_many_above_as_below(made: Made) -> None:
    run = made("graph_nodes") / "graph_nodes/maml/seed0"
    values = values_of(run)
    assert len(values) == 3
    assert values[median_client(run)] == sorted(values.values())[1]
    assert values_of(run, "label propagation").keys() == values.keys()


# --- graph_nodes ------------------------------------------------------------------------------


def test_a_graph_is_named_as_it_was_evaluated(made: Made) -> None:
    run = made("graph_nodes") / "graph_nodes/maml/seed0"
    client = median_client(run)
    graph = graph_of(model_of(run), client)
    assert graph.named.sum() == 3  # one node of each block
    assert sorted(graph.names[graph.named]) == [0, 1, 2]
    assert graph.right[1][~graph.named].mean() == pytest.approx(values_of(run)[client])
    assert (places_of(graph) == places_of(graph)).all()
    assert len(graph.edges) == len(np.unique(graph.edges, axis=0))


# --- malaria ----------------------------------------------------------------------------------


def test_weights_of_the_support_and_of_the_query_itself_add_up_to_one(made: Made) -> None:
    runs = made("malaria", "malaria_flipped")
    folders = {name: runs / name / "snail" / "seed0" for name in ("malaria", "malaria_flipped")}
    client = median_client(folders["malaria"])
    read = read_by({name: model_of(folder) for name, folder in folders.items()}, client)
    assert read.support.shape == (10, 14, 14)
    assert read.queries.shape == (2, 14, 14)
    for name in folders:
        assert read.weights[name].shape == (2, 10)
        assert (read.weights[name] > 0).all()
        assert (read.weights[name].sum(1) < 1).all()  # the rest is the query's own
        assert ((read.infected[name] > 0) & (read.infected[name] < 1)).all()


# --- patients ---------------------------------------------------------------------------------


def test_errors_of_patients_are_those_of_the_run(made: Made) -> None:
    run = made("patients") / "patients/maml/seed0"
    model = model_of(run)
    found = errors({"MAML": model}, {"oracle": {}, "least squares": {}}, (1, 4), 3)
    assert found["MAML"][1] == pytest.approx(list(values_of(run).values()))
    assert found["oracle"][1] == pytest.approx(list(values_of(run, "oracle").values()))
    assert found["oracle"].shape == (2, 3)
    moved = start_of(model) - [3.0, 0.3]  # the start before training; Adam moves it by one rate
    assert moved == pytest.approx(np.sign(moved) * [0.03, 0.003], rel=0.01)


# --- payload ----------------------------------------------------------------------------------


def test_estimates_of_masses_are_as_uncertain_as_they_say() -> None:
    scenario = Payload()
    estimates = [estimate_of(scenario, arm, 0.5) for arm in scenario.clients()["test"][:100]]
    first, last = (np.array([each.deviation[at] for each in estimates]) for at in (0, -1))
    assert (last < first).all()
    assert (first < HEAVIEST / 12**0.5).all()  # the deviation of U(0, 3)
    away = [(each.mean[-1] - each.mass) / each.deviation[-1] for each in estimates]
    assert np.mean(np.square(away)) == pytest.approx(1, abs=0.45)  # 1 +- .14 if all is normal


def test_masses_of_a_picture_are_read_as_in_the_run(made: Made) -> None:
    run = made("payload") / "payload/maml/seed0"
    found = mass_errors({"MAML": model_of(run)}, {"oracle": {}}, (0.5,), 3)
    rows = [row["mass:after"] for row in RunDirectory(run).clients()]
    assert found["MAML"] == pytest.approx([np.median(rows)])
    rows = [row["mass"] for row in reference_of(run, "oracle")["clients"]]
    assert found["oracle"] == pytest.approx([np.median(rows)])


def test_arms_of_a_picture_differ_in_their_payloads() -> None:
    assert len(set(arms_near(Payload(test_clients=50)))) == 3


# --- jmak -------------------------------------------------------------------------------------


def test_errors_by_steps_begin_and_end_as_in_the_run(made: Made) -> None:
    run = made("jmak") / "jmak/fedavg/seed0"
    metric = RunDirectory(run).summary()["metric"]
    before, after = errors_by_steps(model_of(run), (0, 3))
    assert (before, after) == pytest.approx((metric["before"], metric["after"]))
    best, *_, worst = spread_clients(run, (0, 0.5, 1))
    values = values_of(run)
    assert (values[best], values[worst]) == (min(values.values()), max(values.values()))


def test_the_nearest_curve_of_an_archive_is_one_of_it(made: Made, tmp_path: Path) -> None:
    models = {"FedAvg": model_of(made("jmak_measured") / "jmak_measured/fedavg/seed0")}
    scenario = models["FedAvg"].config.make_scenario()
    client = scenario.clients()["test"][0]
    found = curves_of(models, client, fit_references(scenario, {NEAREST: {"count": 1}}))
    (training,) = scenario.tasks("train", scenario.clients()["train"], 1, {})
    archive = training.tasks.query.y.numpy()
    assert np.abs(archive - found.predicted[NEAREST]).max(1).min() < 1e-6
    assert found.support.shape == (2, 5)
    assert found.title == ", ".join(scenario.groups(client).values())
    for file in ("one.svg", "two.svg"):
        draw_measured(list(archive), [found, found], tmp_path / file)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


# --- inverse_design ---------------------------------------------------------------------------


def test_hits_before_adaptation_cost_no_call_and_are_those_of_the_run(made: Made) -> None:
    run = made("inverse_design") / "inverse_design/fedavg/seed0"
    hits = hits_of(model_of(run), (0, 5))
    assert hits.calls.tolist() == [0, 80]
    metric = RunDirectory(run).summary()["metric"]
    assert hits.hit[1] == pytest.approx(metric["after"])  # by the 80 calls of the recipe
    assert ((hits.diversity > 0) & (hits.diversity < 1)).all()


# --- materials --------------------------------------------------------------------------------


def test_energies_are_those_of_the_family_in_electron_volts(made: Made) -> None:
    assert Parity(np.array([1.0, 2.0]), np.array([1.5, 1.0])).error == 0.75
    model = model_of(made("materials") / "materials/fedavg/seed0")
    before, after = parity_of(model, 0), parity_of(model)
    assert before.truth.shape == (52 * 42,)  # 52 cations; ten of their compounds are the support
    assert (before.truth == after.truth).all()
    task = model.tasks_of(model.config.make_scenario())
    (metric,) = model.config.make_problem().metrics
    scale = metric.scale({"energies": torch.tensor([2.0, 0.0, 2 * 3.0**2])})
    assert scale == pytest.approx(3)  # by which the metric, and here the statistics, make eV
    spread = float(np.std(before.truth)) / float(task.query.y.std(correction=0))
    assert before.error == pytest.approx(
        spread * float((model.predicts_all(task, 0)[..., 0] - task.query.y).abs().mean()), rel=1e-4
    )


# --- molecules --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_first_size_of_a_support_is_that_of_the_run(data_dir: Path, tmp_path: Path) -> None:
    layer = {"scenario": "molecules", "strategy": "fedavg", "rounds": 1, "clients": 2,
             "data_dir": str(data_dir)}  # fmt: skip
    execute(resolve(layer), tmp_path / "run")
    values = list(values_of(tmp_path / "run").values())
    found = by_support({"FedAvg": model_of(tmp_path / "run")}, {}, (16, 64))
    assert found["FedAvg"][0] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["FedAvg"][1] != found["FedAvg"][0]


def test_assays_are_in_the_order_of_fine_tuned_averaging(made: Made, tmp_path: Path) -> None:
    summary = made("graph_nodes") / "graph_nodes/maml/seed0/summary.json"
    for place, name in enumerate(("fedavg", "maml", "protonet")):
        run = tmp_path / "molecules" / name / "seed0"
        run.mkdir(parents=True)
        (run / "summary.json").write_text(summary.read_text())
        rows = [
            {"client": each, "accuracy:after": (each * 7 % 5 + place) / 10} for each in range(5)
        ]
        (run / "clients.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    forest = [{"client": each, "accuracy": 0.5 - each / 10} for each in range(5)]
    run = tmp_path / "molecules" / "fedavg" / "seed0"
    reference = EvaluatedReference("random forest", "", True, False, {}, 0, (*forest,))
    (run / "references.json").write_text(json.dumps([reference.to_json()]))
    found = sorted_assays(tmp_path)
    assert found["FedAvg"] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])  # clients 0, 3, 1, 4, 2
    assert found["ProtoNet"] == pytest.approx(found["FedAvg"] + 0.2)
    assert found["random forest"] == pytest.approx([0.5, 0.2, 0.4, 0.1, 0.3])
    grown = {name: np.array([0.1, 0.2]) for name in found}
    for file in ("one.svg", "two.svg"):
        draw_assays(found, grown, tmp_path / file, (16, 32))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


# --- sky --------------------------------------------------------------------------------------


def test_plates_are_evaluated_with_their_first_objects(made: Made, tmp_path: Path) -> None:
    model = model_of(made("sky") / "sky/fedavg/seed0")
    plates = plates_of(model)
    found = accuracies({"FedAvg": model}, {"commonest class": {}}, sky.SHOTS)
    assert found["FedAvg"].shape == (len(sky.SHOTS), len(plates))
    commonest = [task.support.y.bincount().argmax() for task in plates.values()]
    expected = [
        float((task.query.y == kind).double().mean())
        for task, kind in zip(plates.values(), commonest, strict=True)
    ]
    assert found["commonest class"][-1] == pytest.approx(expected)
    mixes = np.array([mix_of(task) for task in plates.values()])
    assert ((mixes >= 1 / 3) & (mixes <= 1)).all()
    for file in ("one.svg", "two.svg"):
        draw_plates(found, mixes, tmp_path / file)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


# --- sky_anomaly ------------------------------------------------------------------------------


def test_distances_of_stars_have_the_auroc_of_the_run(made: Made) -> None:
    run = made("sky_anomaly") / "sky_anomaly/protonet/seed0"
    values = values_of(run)
    plane = plane_of(model_of(run), list(values)[:1])
    scores, new = (torch.from_numpy(each.astype(float)) for each in (plane.distance, plane.new))
    assert float(roc_auc(scores[:, None], new)) == pytest.approx(next(iter(values.values())))
    assert plane.archive.mean(0) == pytest.approx([0, 0], abs=1e-9)  # the middle of the plane
    assert len(plane.prototypes) == 12
    assert 0 < plane.share <= 1


# --- synthesis --------------------------------------------------------------------------------


def test_trials_of_a_material_are_those_whose_regret_is_reported(made: Made) -> None:
    model = model_of(made("synthesis") / "synthesis/fedavg/seed0")
    scenario = model.config.make_scenario()
    assert isinstance(scenario, Synthesis)
    client = scenario.clients()["test"][0]
    surface = surface_of(scenario, client)
    assert 0 < surface.floor < 0.5
    for policy in policies_of(model).values():
        trials = trials_of(scenario, client, policy)
        expected = regrets(scenario, [client], policy, 6)[0].numpy()
        best = np.maximum.accumulate(trials.yields)[5:]
        assert 1 - best == pytest.approx(expected)
        assert (1 - trials.yields[6:] > surface.floor - 1e-9).all()
        assert sum(map(len, numbers_at(trials).values())) == 12


def test_numbers_of_trials_are_short() -> None:
    assert spelled([7, 8, 9, 10, 12]) == "7-10, 12"
    assert spelled([3]) == "3"
