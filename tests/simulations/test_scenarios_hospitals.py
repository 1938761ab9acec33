"""Heart disease at four hospitals: who trains, who is evaluated, and what they know of each
other."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmaml.config import resolve
from fedmaml.core.params import Params
from fedmaml.core.seeding import generator
from fedmaml.core.tasks import Batch, Task
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.datasets import heart_disease
from fedmaml.simulations.scenarios import Hospitals

PATIENTS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
ILL = {"cleveland": 139, "hungarian": 106, "switzerland": 115, "va": 149}


@pytest.fixture
def within(data_dir: Path) -> Hospitals:
    return Hospitals(data_dir=str(data_dir))


def leave_out(data_dir: Path, held_out: int, **more: object) -> Hospitals:
    return Hospitals(data_dir=str(data_dir), protocol="leave-one-out", held_out=held_out, **more)


def common_of(scenario: Hospitals) -> Params:
    total: Params = {}
    for client in scenario.clients()["train"]:
        for name, value in scenario.statistics(client).items():
            total[name] = total.get(name, 0) + value
    return total


def task_of(scenario: Hospitals, split: str, client: int, round: int = 1) -> Task:
    tasks = scenario.tasks(split, [client], round, common_of(scenario))[0].tasks
    return Task(*(Batch(*(value[0] for value in batch)) for batch in tasks))


def rows(*batches: Batch) -> Counter[bytes]:
    return Counter(
        torch.cat([batch.x, batch.y[:, None]], 1)[row].numpy().tobytes()
        for batch in batches
        for row in range(len(batch.y))
    )


def test_the_files_have_uci_s_patients(data_dir: Path) -> None:
    for name, (x, y) in zip(
        heart_disease.HOSPITALS, heart_disease.load(str(data_dir)), strict=True
    ):
        assert x.shape == (PATIENTS[name], len(heart_disease.FEATURES))
        assert float(y.sum()) == ILL[name]
        assert set(y.tolist()) == {0.0, 1.0}
        assert x.dtype == y.dtype == torch.float64


def test_cholesterol_and_blood_pressure_of_zero_are_missing(data_dir: Path) -> None:
    features = list(heart_disease.FEATURES)
    hospitals = dict(zip(PATIENTS, heart_disease.load(str(data_dir)), strict=True))
    for column in ("chol", "trestbps"):
        for x, _ in hospitals.values():
            assert not (x[:, features.index(column)] == 0).any()
    chol, flag = features.index("chol"), features.index("chol missing")
    assert hospitals["switzerland"][0][:, chol].isnan().all()
    for x, _ in hospitals.values():
        assert torch.equal(x[:, flag] == 1, x[:, chol].isnan())


def test_within_each_hospital_seventy_percent_train_by_disease(within: Hospitals) -> None:
    for client, (name, patients) in enumerate(PATIENTS.items()):
        assert within.hospital(client) == name
        task = task_of(within, "test", client)
        for label, count in ((1.0, ILL[name]), (0.0, patients - ILL[name])):
            support, query = (int((batch.y == label).sum()) for batch in task)
            assert support + query == count
            assert abs(support - 0.7 * count) <= 0.5  # rounded


def test_within_patients_that_are_evaluated_never_train(within: Hospitals) -> None:
    for client in range(4):
        evaluated = task_of(within, "test", client)
        own = heart_disease.load(within.data_dir)[client]
        twins = sum(count > 1 for count in rows(Batch(*own)).values())
        for round in (1, 2):
            train = task_of(within, "train", client, round)
            # Training splits the 70 % anew in every round; nobody of the other 30 % is among them.
            assert rows(*train) == rows(evaluated.support)
            assert len(train.support.y) == len(evaluated.support.y) // 2
            assert len(rows(*train) & rows(evaluated.query)) <= twins


@pytest.mark.parametrize("held_out", range(4))
def test_the_held_out_hospital_is_the_last_client(data_dir: Path, held_out: int) -> None:
    scenario = leave_out(data_dir, held_out)
    assert list(scenario.clients()["train"]) == [0, 1, 2]
    assert list(scenario.clients()["test"]) == [3]
    names = [scenario.hospital(client) for client in range(4)]
    assert names[3] == heart_disease.HOSPITALS[held_out]
    assert sorted(names) == sorted(heart_disease.HOSPITALS)
    assert names[:3] == [n for n in heart_disease.HOSPITALS if n != names[3]]


@pytest.mark.parametrize("held_out", range(4))
def test_leave_one_out_uses_every_patient_once(data_dir: Path, held_out: int) -> None:
    scenario = leave_out(data_dir, held_out, shots=20)
    for split, clients in scenario.clients().items():
        for client in clients:
            task = task_of(scenario, split, client)
            name = scenario.hospital(client)
            assert len(task.support.y) == 20
            assert len(task.query.y) == PATIENTS[name] - 20
            assert float(task.support.y.sum() + task.query.y.sum()) == ILL[name]


def test_nothing_is_missing_after_standardisation(within: Hospitals, data_dir: Path) -> None:
    for scenario in (within, *(leave_out(data_dir, held_out) for held_out in range(4))):
        for split, clients in scenario.clients().items():
            for client in clients:
                for batch in task_of(scenario, split, client):
                    assert batch.x.isfinite().all()


def test_standardisation_by_hand(data_dir: Path) -> None:
    # Mean and scale of Hungary, Switzerland and Long Beach together, without Cleveland; what is
    # missing becomes the mean, 0.
    scenario = leave_out(data_dir, held_out=0)
    cleveland, *others = (x.numpy() for x, _ in heart_disease.load(str(data_dir)))
    training = np.concatenate(others)
    mean, scale = np.nanmean(training, 0), np.nanstd(training, 0)
    expected = np.nan_to_num((cleveland - mean) / scale)
    task = task_of(scenario, "test", 3)
    found = torch.cat([task.support.x, task.query.x]).numpy()
    # Patients come in another order; every one is found by its nearest neighbour.
    distances = np.abs(found[:, None] - expected[None]).max(-1)
    assert distances.min(1).max() < 1e-9
    assert sorted(distances.argmin(1)) == list(range(303))


def test_training_data_have_mean_zero_and_scale_one_together(within: Hospitals) -> None:
    known, total, squares = 0, 0, 0
    for client in range(4):
        x = task_of(within, "test", client).support.x
        known = known + within.statistics(client)["count"]
        total, squares = total + x.sum(0), squares + x.square().sum(0)
    # Missing entries are 0 and change neither sum.
    assert (total / known).abs().max() < 1e-12
    torch.testing.assert_close(squares / known, torch.ones_like(squares), rtol=0, atol=1e-10)


def test_statistics_count_training_patients_only(within: Hospitals, data_dir: Path) -> None:
    age = heart_disease.FEATURES.index("age")
    for client, name in enumerate(PATIENTS):
        count = within.statistics(client)["count"][age]
        assert int(count) == len(task_of(within, "test", client).support.y) < PATIENTS[name]
    scenario = leave_out(data_dir, held_out=2)
    assert int(common_of(scenario)["count"][age]) == 303 + 294 + 200


def test_statistics_are_sums_over_what_is_known(data_dir: Path) -> None:
    scenario = leave_out(data_dir, held_out=0)
    x = heart_disease.load(str(data_dir))[2][0].numpy()  # Switzerland, client 1
    sums = scenario.statistics(1)
    np.testing.assert_array_equal(sums["count"].numpy(), (~np.isnan(x)).sum(0))
    np.testing.assert_allclose(sums["sum"].numpy(), np.nansum(x, 0), rtol=1e-12)
    np.testing.assert_allclose(sums["squares"].numpy(), np.nansum(x**2, 0), rtol=1e-12)


def test_the_loss_is_the_binary_cross_entropy_of_each_patient(within: Hospitals) -> None:
    # logit 0: log 2 whatever the label; logit 10 and label 0: log(1 + e^10)
    loss = within.problem().loss(torch.tensor([[0.0], [10.0]]), torch.tensor([1.0, 0.0]))
    assert loss.tolist() == pytest.approx([np.log(2), np.log1p(np.exp(10))], rel=1e-6)


def test_networks_have_the_sizes_of_the_docstring(data_dir: Path) -> None:
    def entries(network: str) -> int:
        built = Hospitals(data_dir=str(data_dir), network=network).problem().network()
        return sum(parameter.numel() for parameter in built.parameters())

    assert entries("lr") == 16 + 1
    assert entries("mlp") == 16 * 16 + 16 + 16 + 1


def test_first_support_patients_are_a_fair_sample(within: Hospitals) -> None:
    # 20 of Cleveland's 212 at random: 9.2 ill are expected, standard deviation 2.1
    # (hypergeometric). Sorted by disease there would be none.
    y = task_of(within, "test", 0).support.y
    assert 3 <= int(y[:20].sum()) <= 16


def test_fedavg_of_one_step_at_all_hospitals_is_gradient_descent_on_all_patients(
    data_dir: Path, tmp_path: Path
) -> None:
    layer = {
        "scenario": "hospitals", "strategy": "fedavg", "task.network": "lr", "dtype": "float64",
        "inner.steps": 1, "inner.lr": 0.5, "rounds": 3, "data_dir": str(data_dir),
    }  # fmt: skip
    config = resolve(layer)
    execute(config, tmp_path)
    found = RunDirectory(tmp_path).load_meta()["theta"]

    scenario = config.make_scenario()
    start = config.make_strategy().build(config.make_problem(), generator(0, "init"))
    theta = {
        name: value.clone().requires_grad_() for name, value in start.state.meta["theta"].items()
    }
    tasks = [task_of(scenario, "train", client) for client in scenario.clients()["train"]]
    batches = [batch for task in tasks for batch in task]
    everyone = Batch(*(torch.cat(column).double() for column in zip(*batches, strict=True)))
    for _ in range(3):
        slopes = torch.autograd.grad(start.learner.loss(theta, everyone), list(theta.values()))
        theta = {
            name: (value - 0.5 * slope).detach().requires_grad_()
            for (name, value), slope in zip(theta.items(), slopes, strict=True)
        }
    for name, value in theta.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=0, atol=1e-12)


def test_every_client_is_labelled_with_its_hospital() -> None:
    within = Hospitals()
    assert [within.groups(client)["hospital"] for client in range(4)] == [*PATIENTS]
    held_out = Hospitals(protocol="leave-one-out", held_out=1)
    assert held_out.groups(3) == {"hospital": "hungarian"}
