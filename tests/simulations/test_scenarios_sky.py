"""Sky: the data, light curves, what clients share and do not, and the references' own oracles."""

import math
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad

from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.errors import DataError
from fedmaml.core.learner import make_learner
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import accuracy
from fedmaml.core.params import Params
from fedmaml.core.seeding import generator
from fedmaml.core.tasks import Batch, joined, task_at, unstack
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations import references
from fedmaml.simulations.datasets import asas, linear_stars, sdss
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.references.forest import with_shares
from fedmaml.simulations.scenarios import Sky
from fedmaml.simulations.systems import light_curves, skies
from fedmaml.strategies import MAML


def totals(scenario: Sky) -> dict[str, torch.Tensor]:
    own = [scenario.statistics(client) for client in scenario.clients()["train"]]
    return {name: torch.stack([one[name] for one in own]).sum(0) for name in own[0]}


# --- data -------------------------------------------------------------------------------------


def test_plates_have_the_published_objects_and_no_redshift(data_dir: Path) -> None:
    plates = sdss.load(str(data_dir))
    y = torch.cat([labels for _, labels in plates.values()])
    assert dict(zip(sdss.CLASSES, y.bincount().tolist(), strict=True)) == {
        "GALAXY": 4998, "STAR": 4152, "QSO": 850,
    }  # fmt: skip
    assert {x.shape[1] for x, _ in plates.values()} == {5}
    large = [labels for _, labels in plates.values() if len(labels) >= 40]
    assert (len(large), sum(len(set(own.tolist())) == 1 for own in large)) == (83, 10)
    assert len(skies.plates(str(data_dir))[0]) == 73
    sizes = {split: len(own) for split, own in Sky(data_dir=str(data_dir)).clients().items()}
    assert sizes == {"train": 36, "validation": 11, "test": 26}


def test_plates_stand_in_the_order_of_their_numbers(data_dir: Path) -> None:
    numbers = [int(name.removeprefix("plate ")) for name in sdss.load(str(data_dir))]
    assert numbers == sorted(set(numbers))
    assert numbers != sorted(numbers, key=str)


def test_fields_are_stripes_of_the_sky_that_share_no_star(data_dir: Path) -> None:
    stars = linear_stars.load(str(data_dir))
    assert np.bincount(stars.y).tolist() == [2612, 864, 2246, 342, 82]
    assert np.isnan(stars.x).sum() == 3  # amplitudes
    fields = skies.fields(str(data_dir))
    assert [len(y) for _, y in fields] == [96] * 64
    rows = [tuple(row) for x, _ in fields for row in x.nan_to_num(-1).tolist()]
    every = Counter(tuple(row) for row in np.nan_to_num(stars.x[:, 4:8], nan=-1).tolist())
    assert not Counter(rows) - every  # each star at most once


def test_light_curves_are_those_of_28_classes(data_dir: Path) -> None:
    kinds = Counter(curve.kind for curve in asas.load(str(data_dir)))
    assert (len(kinds), sum(kinds.values()), kinds["Mira"], kinds["SX_Phe"]) == (28, 810, 91, 1)
    common = skies.common_kinds(str(data_dir))
    assert len(common) == 20
    assert sum(kinds.values()) - sum(map(len, common.values())) == 26
    assert len(skies.other_survey(str(data_dir))[1]) == 238


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("plates", sdss.FILE.name), ("surveys", linear_stars.FILE.name),
        ("classes", asas.FILE.name),
    ],
)  # fmt: skip
def test_a_truncated_file_is_named(data_dir: Path, tmp_path: Path, data: str, name: str) -> None:
    with pytest.raises(DataError, match=rf"no file .*{name}.*--data-dir"):
        Sky(data=data, data_dir=str(tmp_path)).clients()
    (tmp_path / "astronomy").mkdir()
    content = (data_dir / "astronomy" / name).read_bytes()
    (tmp_path / "astronomy" / name).write_bytes(content[:-7])
    with pytest.raises(DataError, match=rf"{name} is not the original.*SHA-256"):
        Sky(data=data, data_dir=str(tmp_path)).clients()


# --- light curves -----------------------------------------------------------------------------


def test_the_power_of_a_sine_at_its_frequency_is_one() -> None:
    t = torch.arange(4000, dtype=torch.float64) / 40  # whole cycles
    z = math.sqrt(2) * (2 * math.pi * 0.5 * t).sin()
    found = light_curves.powers(t, z, torch.tensor([0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0]).double(), atol=1e-5, rtol=0)
    frequency, power = light_curves.peak(t, z)
    assert float(frequency) == pytest.approx(0.5, rel=0.01)
    assert float(power) > 0.95


def test_the_shape_of_a_curve_knows_nothing_of_brightness_and_date() -> None:
    days = np.sort(np.random.default_rng(0).uniform(0, 900, 700))
    magnitude = 12 + 0.3 * np.sin(2 * np.pi * days / 3.3) + 0.1 * np.cos(days)
    found = light_curves.shape_of(days, magnitude)
    assert found.shape == (light_curves.FEATURES,)
    torch.testing.assert_close(light_curves.shape_of(days + 64, magnitude + 2), found)
    assert float(found[9].exp()) == pytest.approx(1 / 3.3, rel=0.01)


# --- clients ----------------------------------------------------------------------------------


def test_a_survey_scales_moves_turns_skewness_and_halves_periods_of_eclipsing_stars() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=draws, dtype=torch.float64)
    x[:, 3] = torch.arange(300)  # tells stars apart
    y = torch.arange(300) % 5
    eclipsing, seen = (y == 2) | (y == 3), set()
    for own, labels in skies.surveys([(x[:100], y[:100]), (x[100:], y[100:])], 7, 30, 300):
        order = own[:, 3].argsort()
        own = own[order]
        assert torch.equal(labels[order], y)
        slopes = []
        for column in range(4):
            known = torch.stack([x[:, column], torch.ones(300, dtype=x.dtype)], 1)[~eclipsing]
            line = torch.linalg.lstsq(known, own[~eclipsing, column]).solution
            torch.testing.assert_close(known @ line, own[~eclipsing, column])
            slopes.append(float(line[0]))
            if column == 0:
                rest = own[eclipsing, 0] - line[0] * x[eclipsing, 0] - line[1]
                halved = round(float(rest.mean()) / slopes[0], 6)
                torch.testing.assert_close(rest, rest.mean().expand(len(rest)))
        assert slopes[0] > 0
        assert slopes[1] > 0
        seen.add((slopes[2] > 0, halved))
    half = round(-math.log10(2), 6)
    assert seen == {(sign, period) for sign in (True, False) for period in (0.0, half)}


def test_a_client_of_unseen_classes_has_no_star_that_trained(data_dir: Path) -> None:
    scenario = Sky(data="classes", data_dir=str(data_dir))
    sites = skies.dealt("classes", seeding.key(scenario.seed, "sky"), str(data_dir)).sites
    stars = {
        split: {tuple(row) for client in clients for row in sites[client][0].tolist()}
        for split, clients in scenario.clients().items()
    }
    assert not stars["train"] & stars["validation"]
    assert not (stars["train"] | stars["validation"]) & stars["test"]
    task = task_at(scenario.tasks("test", [300], 0, totals(scenario))[0].tasks, 0)
    assert task.support.y.bincount().tolist() == [5] * 4
    assert task.query.y.bincount().tolist() == [6] * 4


def test_draws_of_another_survey_are_a_family_of_their_own(data_dir: Path) -> None:
    scenario = Sky(data="fields", data_dir=str(data_dir))
    test = scenario.clients()["test"]
    assert Counter(map(scenario.family, test)) == {"": 22, "asas": 20}
    assert {scenario.family(client) for client in range(test.start)} == {""}


def test_names_of_unseen_classes_mean_nothing_before_adapting(data_dir: Path) -> None:
    """Over all orders of four classes, any predictor is right in exactly a quarter.

    And adaptation does not see the order: labels and rows of the head permuted alike give the same
    loss.
    """
    scenario = Sky(data="classes", hidden=8, data_dir=str(data_dir))
    task = task_at(scenario.tasks("test", [250], 0, totals(scenario))[0].tasks, 0)
    support, query = (Batch(x.float(), y) for x, y in task)
    learner, theta = make_learner(scenario.problem(), generator(0))
    orders = [torch.tensor(order) for order in permutations(range(4))]
    found = [accuracy(learner.apply(theta, query.x), order[query.y]) for order in orders]
    assert float(torch.stack(found).mean()) == pytest.approx(0.25)

    start = MAML().build(scenario.problem(), generator(0))
    meta, order = start.state.meta, torch.tensor([2, 0, 3, 1])

    def loss(theta, names):
        predict = MAML().adapt(start.learner, {**meta, "theta": theta}, {},
                               Batch(support.x, names[support.y]))  # fmt: skip
        return start.learner.query_loss(predict, Batch(query.x, names[query.y]))

    plain = meta["theta"]
    head = {name: value[order.argsort()] for name, value in plain.items() if "head" in name}
    torch.testing.assert_close(
        loss({**plain, **head}, order), loss(plain, torch.arange(4)), rtol=1e-5, atol=1e-6
    )


def test_one_step_of_all_plates_is_a_step_down_the_gradient_of_all_their_objects(
    data_dir: Path, tmp_path: Path
) -> None:
    run = resolve({
        "scenario": "sky", "strategy": "fedavg", "rounds": 1, "clients": 36, "dtype": "float64",
        "inner.steps": 1, "inner.lr": 0.3, "data_dir": str(data_dir.absolute()),
        "evaluation": {"split": "validation", "largest": 1},
    })  # fmt: skip
    execute(run, tmp_path / "run")
    scenario = Sky(data_dir=str(data_dir.absolute()))
    plates = scenario.clients()["train"]
    groups = scenario.tasks("train", plates, 1, totals(scenario))
    objects = [joined(task) for group in groups for task in unstack(group).values()]
    assert len({len(own.y) for own in objects}) > 10
    start = run.make_strategy().build(run.make_problem(), generator(run.seed, "init"))
    theta = start.state.meta["theta"]

    def loss(point: Params) -> Tensor:
        x, y = (torch.cat(parts) for parts in zip(*objects, strict=True))
        return cross_entropy(start.learner.apply(point, x.double()), y).mean()

    slope, found = grad(loss)(theta), RunDirectory(tmp_path / "run").load_meta()["theta"]
    for name, value in theta.items():
        torch.testing.assert_close(found[name], value - 0.3 * slope[name], rtol=0, atol=1e-14)


# --- references -------------------------------------------------------------------------------


def test_the_same_class_shares_return_a_forest_bit_for_bit() -> None:
    logits = torch.randn(7, 3)
    shares = torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64)
    assert torch.equal(with_shares(logits, shares, shares), logits)
    more = with_shares(logits, shares, torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64))
    torch.testing.assert_close(more - logits, torch.tensor([2.0, 0.5, 1.0]).log().expand(7, 3))


def test_a_support_with_the_training_shares_returns_the_pooled_forest_bit_for_bit() -> None:
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    training = Batch(x, (torch.arange(64) % 4 == 0).long())  # shares .75 and .25, exact
    clients = TrainingClients("", False, {}, lambda: [training])
    pooled = references.random_forest(references.classes(2), trees=20).fit(clients)
    support = Batch(x[:8], training.y[:8])
    for pseudo in (1.0, 8.0):
        adapt = references.forest_by_shares(2, trees=20).fit(clients, pseudo=pseudo)
        assert torch.equal(adapt(support)(x), pooled(support)(x))


def test_own_shares_decide_where_a_forest_cannot() -> None:
    """Both classes look alike; a client that knows nine of one and one of the other says so."""
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    training = Batch(x, torch.arange(200) % 2)
    clients = TrainingClients("", False, {}, lambda: [training])
    adapt = references.forest_by_shares(2, trees=20).fit(clients, pseudo=0.001)
    support = Batch(x[:10], torch.tensor([1] * 9 + [0]))
    ratio = adapt(support)(x) - adapt(Batch(x[:2], torch.tensor([0, 1])))(x)
    torch.testing.assert_close(
        ratio[:, 1] - ratio[:, 0], torch.full((200,), math.log(9.0)), atol=1e-3, rtol=0
    )


def test_proximity_of_an_example_with_itself_is_one() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=draws)
    known = Batch(x, torch.arange(60) % 3)
    clients = TrainingClients("", False, {}, list)
    adapt = references.forest_proximity(2, lambda _totals: known, trees=30).fit(clients)
    pair = torch.stack([x[0], x[0] + 50])
    predict = adapt(Batch(pair, torch.tensor([0, 1])))
    near = predict(pair)
    torch.testing.assert_close(near.diagonal(), torch.ones(2))
    assert float(near[0, 1]) == pytest.approx(float(near[1, 0]))
    torch.testing.assert_close(adapt(Batch(pair.flip(0), torch.tensor([1, 0])))(x), predict(x))


def test_the_nearest_class_mean_by_hand() -> None:
    clients = TrainingClients("", True, {}, list)
    support = Batch(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 2]))
    found = references.nearest_class_mean(3).fit(clients)(support)(torch.tensor([[1.5], [4.0]]))
    assert found.argmax(1).tolist() == [0, 2]
    torch.testing.assert_close(found[:, [0, 2]], -torch.tensor([[0.5, 3.5], [3.0, 1.0]]))
