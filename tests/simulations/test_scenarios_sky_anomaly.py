"""Sky anomaly: no evaluated star trained; scores against pairs, formulas and each other."""

import math
from pathlib import Path

import pytest
import torch
from scipy.stats import chi2, ncx2
from torch import Tensor, nn

from fedmaml.core.errors import DataError
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.networks import MLP
from fedmaml.core.tasks import Batch, Task, unstack
from fedmaml.simulations.datasets import asas
from fedmaml.simulations.reference import Reference, TrainingClients
from fedmaml.simulations.scenarios import SkyAnomaly
from fedmaml.simulations.systems import novelty, star_archive
from fedmaml.strategies import ProtoNet


def tasks_of(scenario: SkyAnomaly, split: str) -> dict[int, Task]:
    clients = scenario.clients()[split]
    own = scenario.statistics(0)
    return {
        client: task
        for group in scenario.tasks(split, clients, 1, own)
        for client, task in unstack(group).items()
    }


def rows(x: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.tolist()}


def outputs(reference: Reference, support: Batch, x: Tensor) -> Tensor:
    clients = TrainingClients(reference.name, True, {}, list)
    return reference.fit(clients, **reference.grid[0])(support)(x)


def named(references: tuple[Reference, ...], name: str) -> Reference:
    return next(reference for reference in references if reference.name == name)


# --- data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["asas", "linear"])
def test_no_star_of_a_query_is_in_the_archive_or_in_another_query(
    data_dir: Path, data: str
) -> None:
    scenario = SkyAnomaly(data=data, data_dir=str(data_dir))
    known = scenario.problem().classes - 1
    assert known == {"asas": 12, "linear": 3}[data]
    archive, seen = set(), set()
    for task in tasks_of(scenario, "train").values():
        archive |= rows(task.support.x) | rows(task.query.x)
        assert int(task.query.y.max()) < known  # no anomaly trains
    for split in ("validation", "test"):
        for client, task in tasks_of(scenario, split).items():
            if scenario.family(client):
                continue
            assert sorted(set(task.support.y.tolist())) == list(range(known))
            share = float((task.query.y == known).double().mean())
            assert 0.15 < share < 0.8
            own = rows(task.query.x)
            # Two stars of LINEAR may have the same eight numbers; none has here.
            assert not own & (archive | seen | rows(task.support.x))
            seen |= own


def test_rare_stars_are_a_family_and_part_of_all_anomalies(data_dir: Path) -> None:
    scenario = SkyAnomaly(data_dir=str(data_dir))
    found = tasks_of(scenario, "test")
    of_family = {"": set(), "rare": set()}
    for client, task in found.items():
        new = task.query.x[task.query.y == scenario.problem().classes - 1]
        of_family[scenario.family(client)] |= rows(new)
    assert len(of_family["rare"]) == 26
    assert of_family["rare"] < of_family[""]
    linear = SkyAnomaly(data="linear", data_dir=str(data_dir))
    assert {linear.family(client) for client in linear.clients()["test"]} == {""}


def test_a_damaged_file_is_named(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "astronomy").mkdir()
    content = (data_dir / "astronomy" / asas.FILE.name).read_bytes()
    (tmp_path / "astronomy" / asas.FILE.name).write_bytes(content + b"\0")
    with pytest.raises(DataError, match=r"asas_lightcurves\.npz is not the original"):
        SkyAnomaly(data_dir=str(tmp_path)).clients()


def test_the_period_alone_finds_every_delta_scuti(data_dir: Path) -> None:
    """The trap of this data set: the class is defined by its period."""
    scenario = SkyAnomaly(data="linear", unseen="delta_Scuti_SX_Phe", data_dir=str(data_dir))
    shortest = named(scenario.references(), "shortest period")
    for task in tasks_of(scenario, "test").values():
        found = outputs(shortest, task.support, task.query.x)
        assert float(novelty.auroc(found, task.query.y)) > 0.995


# --- scores -----------------------------------------------------------------------------------


def test_auroc_is_the_share_of_pairs_in_order_ties_half() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 6, (40, 4), generator=draws).double()  # many ties
    y = torch.randint(0, 4, (40,), generator=draws)
    score = -logits[:, :3].max(1).values
    pairs = [
        (score[new] > score[old]) + 0.5 * (score[new] == score[old])
        for new in (y == 3).nonzero()[:, 0]
        for old in (y < 3).nonzero()[:, 0]
    ]
    assert float(novelty.auroc(logits, y)) == pytest.approx(float(sum(pairs)) / len(pairs))
    first = score.argsort(descending=True, stable=True)[:20]
    assert float(novelty.precision_at_20(logits, y)) == float((y[first] == 3).double().mean())


def test_the_distance_to_gaussian_classes_has_the_auroc_of_its_formula() -> None:
    """Classes N(c_k, I) and anomalies N(c, I), |c - c_k| = D of the nearest, in d dimensions.

    Distances squared are chi2_d and chi2_d(D^2): AUROC = P(chi2_d(D^2) > chi2_d).
    """
    size, distance, count = 5, 2.0, 4000
    draws = torch.Generator().manual_seed(1)
    centres = 30 * torch.eye(3, size)
    anomaly = centres[0] + distance * torch.eye(size)[4]
    kinds = [centre + torch.randn(count, size, generator=draws) for centre in centres]
    support = star_archive.labelled(kinds)
    fresh = [centre + torch.randn(count, size, generator=draws) for centre in (centres[0], anomaly)]
    y = torch.tensor([0, 3]).repeat_interleave(count)
    mahalanobis = named(novelty.references_of(3, size, None), "Mahalanobis")
    found = outputs(mahalanobis, support, torch.cat(fresh)).double()
    grid = torch.linspace(0.0005, 0.9995, 1000).double()  # of chi2_d's distribution function
    quantiles = chi2.ppf(grid.numpy(), size)
    expected = float(ncx2.sf(quantiles, size, distance**2).mean())
    score = found[:, 0]
    known, new = -score[y == 0], -score[y == 3]
    below = torch.searchsorted(known.sort().values, new).double() / count
    assert float(below.mean()) == pytest.approx(expected, abs=0.015)


def test_scores_do_not_depend_on_the_order_of_the_support_and_the_names_of_classes() -> None:
    draws = torch.Generator().manual_seed(2)
    x, y = torch.randn(60, 4, generator=draws), torch.arange(60) % 3
    new = torch.randn(30, 4, generator=draws)
    order, names = torch.randperm(60, generator=draws), torch.tensor([2, 0, 1])
    for reference in novelty.references_of(3, 4, 0):
        if "forest" in reference.name:
            continue  # a forest draws rows
        for setting in reference.grid:
            fit = reference.fit(TrainingClients("", True, {}, list), **setting)
            plain, other = fit(Batch(x, y))(new), fit(Batch(x[order], names[y[order]]))(new)
            torch.testing.assert_close(
                novelty.novelty(plain), novelty.novelty(other), rtol=1e-4, atol=1e-5
            )


def test_a_network_of_prototypes_sees_neither_order_nor_names_of_known_classes() -> None:
    draws = torch.Generator().manual_seed(5)
    problem = Problem(lambda: MLP((4, 6, 3, 4)), cross_entropy, (), classes=4).in_dtype("float64")
    start = ProtoNet().build(problem, draws)
    x, y = torch.randn(60, 4, generator=draws).double(), torch.arange(60) % 3
    new = torch.randn(30, 4, generator=draws).double()
    order, names = torch.randperm(60, generator=draws), torch.tensor([2, 0, 1])

    def scores(support: Batch) -> Tensor:
        predict = ProtoNet().adapt(start.learner, start.state.meta, start.memory, support)
        return novelty.novelty(predict(new))

    other = scores(Batch(x[order], names[y[order]]))
    torch.testing.assert_close(scores(Batch(x, y)), other, rtol=1e-12, atol=1e-12)


def test_prototypes_of_an_embedding_that_changes_nothing_are_the_nearest_class_mean() -> None:
    class Identity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 4)
            nn.init.eye_(self.body.weight)
            nn.init.zeros_(self.body.bias)
            self.head = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    problem = Problem(Identity, cross_entropy, (), classes=4)
    draws = torch.Generator().manual_seed(3)
    support = Batch(torch.randn(30, 4, generator=draws), torch.arange(30) % 3)
    new = torch.randn(20, 4, generator=draws)
    start = ProtoNet().build(problem, torch.Generator().manual_seed(0))
    found = ProtoNet().adapt(start.learner, start.state.meta, start.memory, support)(new)
    raw = outputs(named(novelty.references_of(3, 4, None), "nearest class mean"), support, new)
    torch.testing.assert_close(novelty.novelty(found).sqrt(), novelty.novelty(raw))


def test_an_isolation_forest_finds_what_lies_apart() -> None:
    draws = torch.Generator().manual_seed(4)
    support = Batch(torch.randn(200, 3, generator=draws), torch.arange(200) % 2)
    x = torch.cat([torch.randn(50, 3, generator=draws), 8 + torch.randn(50, 3, generator=draws)])
    y = torch.tensor([0, 2]).repeat_interleave(50)
    forest = named(novelty.references_of(2, 3, None), "isolation forest")
    assert float(novelty.auroc(outputs(forest, support, x), y)) > 0.99
    assert math.isnan(float(novelty.auroc(torch.zeros(3, 3), torch.zeros(3).long())))
