"""Malaria and Shakespeare's roles: the data, the classes' order, letters and their second order."""

import math
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad

from fedmaml.computing.references import evaluate_references
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.tasks import Batch, task_at
from fedmaml.simulations.datasets import malaria as cells
from fedmaml.simulations.datasets import shakespeare
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import Malaria, Roles
from fedmaml.simulations.scenarios.roles import NextLetter, bits_per_letter, next_letter_loss
from fedmaml.strategies import ProtoNet

# --- malaria ----------------------------------------------------------------------------------


def test_patients_and_cells_are_the_known_ones(data_dir: Path) -> None:
    patients = cells.load(str(data_dir))
    assert len(patients) == 200
    assert sum(len(y) for _, y in patients.values()) == pytest.approx(
        7854, abs=20
    )  # twins are left out
    assert sum(bool(y.any()) for _, y in patients.values()) == 150
    scenario = Malaria(data_dir=str(data_dir))
    assert sum(len(numbers) for numbers in scenario.clients().values()) == 122


def test_flipping_exchanges_the_classes_of_some_tasks_and_nothing_else(data_dir: Path) -> None:
    plain, flipped = (Malaria(flip=flip, data_dir=str(data_dir)) for flip in (False, True))
    clients = plain.clients()["test"]
    (one,), (other,) = (each.tasks("test", clients, 0, {}) for each in (plain, flipped))
    for before, after in zip(one.tasks, other.tasks, strict=True):
        assert torch.equal(before.x, after.x)
    turned = (one.tasks.support.y != other.tasks.support.y).all(1)
    assert torch.equal(turned, (one.tasks.query.y != other.tasks.query.y).all(1))
    assert 0.2 < float(turned.double().mean()) < 0.8


def test_prototypes_exchange_their_outputs_when_the_classes_are_exchanged(data_dir: Path) -> None:
    scenario = Malaria(data_dir=str(data_dir), filters=4)
    task = task_at(scenario.tasks("test", [100], 0, {})[0].tasks, 0)
    start = ProtoNet().build(scenario.problem(), torch.Generator().manual_seed(0))

    def outputs(support: Batch) -> torch.Tensor:
        predict = ProtoNet().adapt(start.learner, start.state.meta, start.memory, support)
        return predict(task.query.x)

    x, y = task.support
    plain = outputs(task.support)
    torch.testing.assert_close(outputs(Batch(x, 1 - y)), plain.flip(1))
    order = torch.randperm(len(y))
    torch.testing.assert_close(outputs(Batch(x[order], y[order])), plain)


def test_too_many_cells_and_a_damaged_file_are_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="need 30 cells of each kind; 0 of 200 patients"):
        Malaria(shots=20, queries=10, data_dir=str(data_dir)).clients()
    (tmp_path / "malaria_cells").mkdir()
    (tmp_path / "malaria_cells" / cells.FILE.name).write_bytes(b"PK")
    with pytest.raises(DataError, match=r"malaria_28x28_gray\.npz is not the original"):
        Malaria(data_dir=str(tmp_path)).clients()


# --- roles ------------------------------------------------------------------------------------


def test_359_roles_of_37_plays_have_3000_letters(data_dir: Path) -> None:
    scenario = Roles(data_dir=str(data_dir))
    splits = scenario.clients()
    assert sum(len(numbers) for numbers in splits.values()) == 359
    texts = shakespeare.load(str(data_dir))
    assert len({play for play, _ in texts}) == 37
    assert texts["hamlet", "HAMLET"].startswith("A little more than kin, and less than kind.")


def test_the_support_is_of_the_first_half_and_targets_are_the_next_letters(data_dir: Path) -> None:
    scenario = Roles(data_dir=str(data_dir))
    client = scenario.clients()["test"][0]
    windows = scenario._windows(client)
    rows = {tuple(row.tolist()): at for at, row in enumerate(windows)}
    task = task_at(scenario.tasks("test", [client], 0, {})[0].tasks, 0)
    for batch, side in ((task.support, 0), (task.query, 1)):
        assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])
        whole = torch.cat([batch.x, batch.y[:, -1:]], 1)
        places = [rows[tuple(row.tolist())] for row in whole]
        half = len(windows) // 2
        assert all((place < half) if side == 0 else (place >= half) for place in places)
    with pytest.raises(ConfigurationError, match="half of the shortest role is 50 windows"):
        Roles(shots=51, data_dir=str(data_dir)).clients()


def test_the_first_letters_are_not_scored_and_bits_are_of_base_two() -> None:
    logits, y = torch.zeros(2, 30, 8), torch.randint(8, (2, 30))
    assert float(bits_per_letter(logits, y)) == pytest.approx(3)
    logits[:, :5] = 100 * torch.randn(2, 5, 8)
    torch.testing.assert_close(next_letter_loss(logits, y), torch.full((2,), math.log(8)))


def test_bigrams_are_counts_of_the_training_roles(data_dir: Path) -> None:
    scenario = Roles(data_dir=str(data_dir))
    clients = scenario.clients()["train"][:3]
    counts = sum(scenario.statistics(client)["pairs"] for client in clients)
    letters = math.isqrt(len(counts))
    windows = torch.cat([scenario._windows(client) for client in clients])
    assert counts.sum() == windows[:, 1:].numel()
    reference = scenario.references()[0].fit(TrainingClients("", True, {"pairs": counts}, list))
    found = reference(None)(windows[:1, :-1]).softmax(-1)[0, 0]
    expected = counts.view(letters, letters)[windows[0, 0]] + 0.1
    torch.testing.assert_close(found.double(), expected / expected.sum(), rtol=1e-5, atol=1e-7)


def test_bits_of_bigrams_are_those_counted_by_hand_and_the_known_ones(data_dir: Path) -> None:
    """An independent implementation has 3.494 bits with 72 letters, on other windows."""
    scenario = Roles(data_dir=str(data_dir))
    (found,) = evaluate_references(scenario, torch.float64)
    clients = scenario.clients()["train"]
    windows = torch.cat([scenario._windows(client) for client in clients])
    pairs, counts = (100 * windows[:, :-1] + windows[:, 1:]).unique(return_counts=True)
    followed = dict(zip(pairs.tolist(), counts.tolist(), strict=True))
    row = found.clients[0]
    query = task_at(scenario.tasks("test", [row["client"]], 0, {})[0].tasks, 0).query
    bits = []
    for pair in (100 * query.x[:, 5:] + query.y[:, 5:]).flatten().tolist():
        all_of_first = sum(followed.get(pair // 100 * 100 + other, 0) for other in range(72))
        bits.append(-math.log2((followed.get(pair, 0) + 0.1) / (all_of_first + 0.1 * 72)))
    assert row["bits"] == pytest.approx(sum(bits) / len(bits), rel=1e-5)
    mean = sum(row["bits"] for row in found.clients) / len(found.clients)
    assert mean == pytest.approx(3.494, abs=0.04)


def test_the_gradient_through_a_step_of_the_recurrent_network_is_that_of_differences() -> None:
    torch.manual_seed(0)
    network = NextLetter(5, 3).double()
    theta = {name: value.detach() for name, value in network.named_parameters()}
    windows = torch.randint(5, (4, 31))

    def after_a_step(params):
        def loss(params, rows):
            outputs = functional_call(network, params, (windows[rows, :-1],))
            return next_letter_loss(outputs, windows[rows, 1:]).mean()

        slope = grad(loss)(params, slice(0, 2))
        return loss({name: w - 0.3 * slope[name] for name, w in params.items()}, slice(2, 4))

    exact = grad(after_a_step)(theta)
    along = {name: torch.randn_like(value) for name, value in theta.items()}
    size = 1e-5
    ends = [
        after_a_step({name: w + sign * size * along[name] for name, w in theta.items()})
        for sign in (1, -1)
    ]
    expected = float(ends[0] - ends[1]) / (2 * size)
    found = sum(float((exact[name] * along[name]).sum()) for name in theta)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_damaged_file_of_speeches_is_named(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "shakespeare_roles").mkdir()
    content = (data_dir / "shakespeare_roles" / shakespeare.FILE.name).read_bytes()
    (tmp_path / "shakespeare_roles" / shakespeare.FILE.name).write_bytes(content[1:])
    with pytest.raises(DataError, match=r"shakespeare_speeches\.csv\.gz is not the original"):
        Roles(data_dir=str(tmp_path)).clients()
