"""Materials: energies as the file has them, elements, and the ends of the references."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import DataError
from fedmaml.core.learner import make_learner
from fedmaml.core.tasks import Batch, task_at
from fedmaml.simulations import references
from fedmaml.simulations.datasets import elements, perovskites
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.references.boosting import gradient_boosting
from fedmaml.simulations.scenarios import Materials
from fedmaml.simulations.scenarios.materials import CompositionGraph, compounds
from fedmaml.strategies import RidgeHead


def clients_of(*examples: Batch) -> TrainingClients:
    return TrainingClients("x", False, {}, lambda: examples)


def some_rows(rows: int, columns: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return Batch(x, x[:, 0] * x[:, 1] + torch.randn(rows, generator=generator).double())


# --- data ---------------------------------------------------------------------------------------


def test_energies_do_not_depend_on_the_order_of_cations(data_dir: Path) -> None:
    cations, energies = perovskites.load(str(data_dir))
    assert len(cations) == 52
    assert list(energies) == ["N3", "O3", "FO2", "O2S", "FNO", "NO2", "N2O"]
    for matrix in energies.values():
        assert torch.equal(matrix, matrix.T)
        assert matrix.isfinite().all()
    rhodium, tellurium = cations.index("Rh"), cations.index("Te")
    assert float(energies["N3"][rhodium, tellurium]) <= 2.16  # the file's first row is one order
    nickel = cations.index("Ni")
    assert float(energies["N3"][nickel, nickel]) == 1.48  # "N3Ni2" names one cation


def test_a_compound_is_the_same_in_the_tasks_of_both_cations(data_dir: Path) -> None:
    cations, _ = perovskites.load(str(data_dir))
    one, other = (compounds("O3", cation, str(data_dir)) for cation in ("Ba", "Ti"))
    row, column = cations.index("Ti"), cations.index("Ba")
    assert float(one.y[row]) == float(other.y[column])
    p, q, *rest = one.x[row].split(12)
    torch.testing.assert_close(other.x[column], torch.cat([q, p, *rest]))


def test_every_element_of_the_compounds_has_all_numbers(data_dir: Path) -> None:
    cations, _ = perovskites.load(str(data_dir))
    table = elements.table()
    assert {*cations, *"".join(perovskites.FAMILIES.values())} == set(table)
    assert table["Fe"]["valence electrons"] == 8
    assert table["Pb"]["valence electrons"] == 4
    for symbol, row in table.items():
        assert sum(row[f"{block} block"] for block in "spd") == 1, symbol
        first = {1: 1, 2: 3, 3: 11, 4: 19, 5: 37, 6: 55}[int(row["period"])]
        assert row["atomic number"] >= first, symbol
    of = torch.stack(list(elements.standardised().values()))
    torch.testing.assert_close(of.mean(0), torch.zeros(12).double(), rtol=0, atol=1e-12)


def test_families_of_the_splits_are_different(data_dir: Path) -> None:
    for seed in range(8):
        scenario = Materials(seed=seed, data_dir=str(data_dir))
        found = [
            {scenario.groups(client)["anions"] for client in numbers}
            for numbers in scenario.clients().values()
        ]
        assert [len(each) for each in found] == [5, 1, 1]
        assert len(set.union(*found)) == 7
    assert Materials(data_dir=str(data_dir)).groups(315)["anions"] == "N3"


def test_training_targets_have_mean_0_and_deviation_1(data_dir: Path) -> None:
    scenario = Materials(data_dir=str(data_dir))
    numbers = scenario.clients()["train"]
    totals = sum(scenario.statistics(client)["energies"] for client in numbers)
    tasks = scenario.tasks("train", numbers, 1, {"energies": totals})[0].tasks
    y = torch.cat([tasks.support.y, tasks.query.y], 1)
    assert float(y.mean()) == pytest.approx(0, abs=0.05)
    assert float(y.std()) == pytest.approx(1, abs=0.05)
    claimed = {0: {"energies": torch.tensor([51.0, 1, 1]).double()}}
    assert scenario.unsound_statistics(claimed) == {0: "name 51 compounds, not 52"}


def test_a_damaged_file_of_energies_is_named(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "materials").mkdir()
    content = (data_dir / "materials" / perovskites.FILE.name).read_bytes()
    (tmp_path / "materials" / perovskites.FILE.name).write_bytes(content[:1000])
    with pytest.raises(DataError, match=r"castelli_perovskites\.csv\.gz is not the original"):
        Materials(data_dir=str(tmp_path)).statistics(0)


def test_the_graph_does_not_see_the_order_of_cations() -> None:
    network = CompositionGraph(8).double()
    x = some_rows(5, 60).x
    p, q, anions, *rest = x.split(12, 1)
    swapped = torch.cat([q, p, anions, *rest], 1)
    torch.testing.assert_close(network(x), network(swapped), rtol=1e-12, atol=1e-12)
    assert network(x).shape == (5, 1)


def test_predictions_of_references_do_not_depend_on_the_supports_order(data_dir: Path) -> None:
    scenario = Materials(data_dir=str(data_dir))
    totals = {"energies": torch.tensor([52.0, 78.0, 140.0]).double()}
    task = task_at(scenario.tasks("test", [320], 0, totals)[0].tasks, 0)
    turned = Batch(task.support.x.flip(0), task.support.y.flip(0))
    training = clients_of(some_rows(60, 60))
    for reference in scenario.references():
        adapt = reference.fit(training, **reference.grid[0])
        found = [adapt(support)(task.query.x) for support in (task.support, turned)]
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", ["mlp", "graph"])
def test_a_weak_residual_ridge_passes_through_ten_compounds_and_a_strong_one_is_pooled(
    network: Literal["mlp", "graph"],
) -> None:
    """The 64 features of the last hidden layer and a one are more than ten compounds."""
    problem = Materials(network=network).problem().in_dtype("float64")
    support, new = some_rows(10, 60), some_rows(7, 60, seed=1).x

    def adapted(strength: float, examples: Batch, x: Tensor) -> Tensor:
        strategy = RidgeHead(lam=strength)
        start = strategy.build(problem, seeding.generator(0))
        return strategy.adapt(start.learner, start.state.meta, start.memory, examples)(x)

    weak = adapted(1e-9, support, support.x)
    torch.testing.assert_close(weak[:, 0], support.y, rtol=0, atol=1e-6)
    learner, theta = make_learner(problem, seeding.generator(0))
    pooled, strong = learner.apply(theta, new), adapted(1e12, support, new)
    torch.testing.assert_close(strong, pooled, rtol=0, atol=1e-9)
    turned = Batch(support.x.flip(0), support.y.flip(0))
    torch.testing.assert_close(
        adapted(1.0, turned, new), adapted(1.0, support, new), rtol=0, atol=1e-9
    )


# --- references ---------------------------------------------------------------------------------


def test_similarity_is_the_nearest_neighbour_when_cold_and_the_mean_when_hot() -> None:
    support, x = some_rows(8, 3), some_rows(5, 3, seed=1).x
    training = clients_of(support)
    similarity = references.similarity(references.NUMBERS, ())
    nearest = references.nearest_neighbour(references.NUMBERS)
    constant = references.constant(references.NUMBERS)
    cold = similarity.fit(training, temperature=1e-9)(support)(x)
    hot = similarity.fit(training, temperature=1e12)(support)(x)
    torch.testing.assert_close(cold, nearest.fit(training, neighbours=1)(support)(x))
    torch.testing.assert_close(hot, constant.fit(training)(support)(x), rtol=1e-9, atol=1e-9)


def test_the_residual_ridge_ends_at_the_trees_or_passes_through_the_support() -> None:
    training, support = clients_of(some_rows(200, 12)), some_rows(10, 12, seed=1)
    x = some_rows(7, 12, seed=2).x
    corrected = references.corrected_boosting(20, ())
    trees = gradient_boosting(references.NUMBERS, 20).fit(training)(support)
    heavy = corrected.fit(training, weight=1e12)(support)(x)
    torch.testing.assert_close(heavy, trees(x), rtol=1e-6, atol=1e-6)
    light = corrected.fit(training, weight=1e-9)(support)(support.x)[:, 0]
    torch.testing.assert_close(light, support.y, rtol=1e-6, atol=1e-6)
