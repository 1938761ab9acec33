"""Molecules: the data, fingerprints of text, and the metric against its closed forms."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.tasks import Batch, Task, task_at, unstack
from fedmaml.simulations import references
from fedmaml.simulations.datasets import fsmol
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import Molecules
from fedmaml.simulations.scenarios.molecules import delta_auprc
from fedmaml.simulations.systems import assays, chemistry, molecules
from fedmaml.strategies import ProtoNet

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def tasks_of(scenario: Molecules, split: str, count: int) -> dict[int, Task]:
    clients = scenario.clients()[split][:count]
    groups = scenario.tasks(split, clients, 1, scenario.statistics(0))
    return {client: task for group in groups for client, task in unstack(group).items()}


# --- data -------------------------------------------------------------------------------------


def test_assays_are_the_published_ones_each_molecule_once(data_dir: Path) -> None:
    everything, smiles = fsmol.load(str(data_dir))
    splits = [assay.split for assay in everything]
    assert (splits.count("train"), splits.count("valid"), len(smiles)) == (4935, 39, 213_294)
    assert all(len(set(a.molecules.tolist())) == len(a.molecules) for a in everything[::50])
    first = everything[0]
    assert (first.name, first.target, len(first.active) <= 58) == ("CHEMBL1000314", "101208", True)


def test_no_target_of_an_evaluated_assay_trains(data_dir: Path) -> None:
    key = seeding.key(0, "molecules", "assays")
    dealt = assays.dealt(key, 48, 20, 0, molecules.numbers, 64, str(data_dir))
    assert {split: len(own) for split, own in dealt.clients.items()} == {
        "train": 500, "validation": 40, "test": 39,
    }  # fmt: skip
    targets = {split: {dealt.targets[c] for c in own} for split, own in dealt.clients.items()}
    assert not targets["train"] & targets["validation"]
    assert not (targets["train"] | targets["validation"]) & targets["test"]
    assert len(targets["validation"]) == 40


def test_a_support_has_the_assays_share_of_active_molecules(data_dir: Path) -> None:
    scenario = Molecules(data_dir=str(data_dir))
    for split, queries in (("train", 16), ("test", 192)):
        for task in tasks_of(scenario, split, 12).values():
            assert len(task.support.y) == 16
            assert 2 <= int(task.support.y.sum()) <= 14
            assert len(task.query.y) <= queries
            share = float(torch.cat([task.support.y, task.query.y]).double().mean())
            assert abs(float(task.support.y.double().mean()) - share) < 0.25
            assert set(task.support.x[:, :1024].unique().tolist()) == {0.0, 1.0}


def test_who_has_too_few_distinct_molecules_for_a_support_is_left_out(data_dir: Path) -> None:
    scenario = Molecules(shots=128, data_dir=str(data_dir))
    for split in ("train", "validation", "test"):
        for task in tasks_of(scenario, split, 500).values():
            assert len(task.support.y) == 128
            assert len(task.query.y) >= 16
    reasons = scenario.left_out().values()
    assert "fewer than 144 distinct molecules" in reasons


def test_of_molecules_with_equal_fingerprints_the_first_is_kept_with_its_label() -> None:
    molecule, labels = np.array([4, 2, 9, 7]), np.array([True, False, False, True])
    assay = fsmol.Assay("a", "t", "train", molecule, labels)
    used = np.array([2, 4, 7, 9])
    prints = np.eye(4, 8, dtype=np.uint8)[[0, 1, 2, 1]]  # molecules 4 and 9 have equal ones
    found = assays._as_numbers(assay, used, prints, used[:, None].repeat(8, 1).astype(float))
    assert found.counts[:, 0].tolist() == [4, 2, 7]
    assert found.active.tolist() == [1, 0, 1]


@pytest.mark.parametrize("file", [fsmol.TASKS, fsmol.LABELS, fsmol.SMILES])
def test_a_damaged_or_missing_file_is_named(data_dir: Path, tmp_path: Path, file) -> None:
    (tmp_path / "fsmol").mkdir()
    for each in (fsmol.TASKS, fsmol.LABELS, fsmol.SMILES):
        content = (data_dir / "fsmol" / each.name).read_bytes()
        (tmp_path / "fsmol" / each.name).write_bytes(content[: -1 if each is file else None])
    with pytest.raises(DataError, match=rf"{file.name} is not the original"):
        Molecules(data_dir=str(tmp_path)).clients()
    (tmp_path / "fsmol" / file.name).unlink()
    with pytest.raises(DataError, match=rf"no file .*{file.name}"):
        Molecules(data_dir=str(tmp_path)).clients()


# --- fingerprints -----------------------------------------------------------------------------


def test_half_the_bits_are_the_halves_of_all_together() -> None:
    texts = [ASPIRIN, "Clc1ccc(Br)cc1", "C", "CN1CCC[C@H]1c1cccnc1"]
    whole, half = (molecules.fingerprints(texts, bits) for bits in (1024, 512))
    assert np.array_equal(whole[:, :512] | whole[:, 512:], half)
    assert whole[2].sum() == 0  # one character has no substring of three


def test_a_fingerprint_is_that_of_the_molecule_alone_and_has_a_bit_for_each_substring() -> None:
    texts = [ASPIRIN, "Clc1ccc(Br)cc1", "CCO"]
    together = molecules.fingerprints(texts, 4096)
    for row, text in enumerate(texts):
        assert np.array_equal(together[row], molecules.fingerprints([text], 4096)[0])
    plain = "Lc0ccc(R)cc0"
    words = {plain[i : i + n] for n in (3, 4, 5) for i in range(len(plain) - n + 1)}
    assert len(words) - 2 <= together[1].sum() <= len(words)  # two may share a bit


def test_counts_of_a_molecule() -> None:
    #                                                  heavy N O S hal arom rings branches
    assert molecules.descriptors(ASPIRIN) == (13, 0, 4, 0, 0, 6, 1, 2)
    assert molecules.descriptors("Clc1cc2[nH]ccc2cc1S(N)(=O)=O") == (14, 2, 2, 1, 1, 9, 2, 2)


def test_similarity_of_a_molecule_with_itself_is_one() -> None:
    bits = torch.from_numpy(molecules.fingerprints([ASPIRIN, "CCOCC", "CCN(CC)CC", "C"], 256))
    found = molecules.similarity(bits.double(), bits.double())
    assert found.diagonal().tolist() == [1.0, 1.0, 1.0, 0.0]  # nothing is like nothing
    assert torch.equal(found, found.T)
    common = (bits[0] & bits[2]).sum() / (bits[0] | bits[2]).sum()
    assert float(found[0, 2]) == pytest.approx(float(common))


# --- the metric -------------------------------------------------------------------------------


def test_random_scores_do_not_have_zero() -> None:
    """E AP = c + (H_N / N) (1 - c), c = (P - 1) / (N - 1): 60 examples, 20 active: .374."""
    count, active, draws = 60, 20, 4000
    y = (torch.arange(count) < active).long()
    scores = seeding.uniform(seeding.key(0, "scores"), range(draws), count)
    logits = torch.stack([torch.zeros_like(scores), scores], 2)
    found = torch.stack([delta_auprc(each, y) for each in logits]) + active / count
    c = (active - 1) / (count - 1)
    expected = c + (1 / torch.arange(1, count + 1)).sum() / count * (1 - c)
    assert float(expected) == pytest.approx(0.3745, abs=5e-4)
    error = float(found.std()) / draws**0.5
    assert float(found.mean()) == pytest.approx(float(expected), abs=4 * error)


def test_perfect_scores_have_one_less_the_share_and_equal_ones_have_zero() -> None:
    y = torch.tensor([1, 0, 0, 1, 0])
    perfect = torch.stack([-y.double(), y.double()], 1)
    assert float(delta_auprc(perfect, y)) == pytest.approx(1 - 2 / 5)
    assert float(delta_auprc(torch.zeros(5, 2), y)) == pytest.approx(0)
    assert torch.equal(delta_auprc(perfect, y), delta_auprc(perfect.flip(0), y.flip(0)))


# --- predictors -------------------------------------------------------------------------------


def test_exchanged_labels_exchange_the_score_and_the_order_of_a_support_does_not_matter(
    data_dir: Path,
) -> None:
    scenario = Molecules(hidden=8, data_dir=str(data_dir))
    task = task_at(scenario.tasks("test", [545], 0, scenario.statistics(0))[0].tasks, 0)
    (x, y), new = task.support, task.query.x
    start = ProtoNet().build(scenario.problem(), torch.Generator().manual_seed(0))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))

    def prototypes(support: Batch) -> torch.Tensor:
        predict = ProtoNet().adapt(start.learner, start.state.meta, start.memory, support)
        return predict(new)

    clients = TrainingClients("", True, {}, list)
    fits = [prototypes]
    for reference in scenario.references()[:3]:
        adapt = reference.fit(clients, **reference.grid[-1])
        fits.append(lambda support, adapt=adapt: adapt(support)(new))
    for fit in fits:
        plain, turned = fit(Batch(x, y)), fit(Batch(x, 1 - y))
        difference, exchanged = (out[:, 1] - out[:, 0] for out in (plain, turned))
        torch.testing.assert_close(exchanged, -difference, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fit(Batch(x[order], y[order])), plain, rtol=1e-5, atol=1e-5)


def test_the_most_similar_and_the_kernel_by_hand() -> None:
    x = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0]])
    support, new = Batch(x, torch.tensor([1, 0, 1])), torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]])
    clients = TrainingClients("", True, {}, list)
    nearest = references.most_similar(molecules.similarity, "nearest", (1,))
    found = nearest.fit(clients, neighbours=1)(support)(new)
    torch.testing.assert_close(found[:, 1] - found[:, 0], torch.tensor([1.0, -0.5]))
    kernel = molecules.similarity(x.double(), x.double())
    ridge = references.kernel_ridge(molecules.similarity, "ridge").fit(clients, penalty=1e-9)
    fitted = ridge(support)(x)
    torch.testing.assert_close(fitted[:, 1] - fitted[:, 0], torch.tensor([1.0, -1.0, 1.0]))
    assert float(torch.linalg.eigvalsh(kernel).min()) > 0


# --- circular fingerprints --------------------------------------------------------------------


def test_circular_fingerprints_do_not_depend_on_how_a_molecule_is_written() -> None:
    pytest.importorskip("rdkit")
    bits, counts = chemistry.numbers([ASPIRIN, "OC(=O)c1ccccc1OC(C)=O", "C"], 1024)
    assert np.array_equal(bits[0], bits[1])
    assert counts[0] == pytest.approx(counts[1])
    assert counts[0, [0, 3, 4, 5, 7]].tolist() == [pytest.approx(180.042, abs=1e-3), 13, 1, 3, 1]
    assert bits[2].sum() == 1  # one atom has one neighbourhood
    text, _ = molecules.numbers([ASPIRIN, "OC(=O)c1ccccc1OC(C)=O"], 1024)
    assert not np.array_equal(*text)


def test_circular_fingerprints_are_folded_by_halves() -> None:
    pytest.importorskip("rdkit")
    (whole, _), (half, _) = (chemistry.numbers([ASPIRIN, "CCOCC"], bits) for bits in (1024, 512))
    assert np.array_equal(whole[:, :512] | whole[:, 512:], half)


@pytest.mark.parametrize("group", ["CO[PH](=O)(=O)O", "O=[PH](=O)(O)OC"])
def test_an_acid_with_the_hydrogen_at_its_phosphorus_is_read_as_an_acid(group: str) -> None:
    pytest.importorskip("rdkit")
    (written, meant), _ = chemistry.numbers([group, "COP(=O)(O)O"], 1024)
    assert np.array_equal(written, meant)


@pytest.mark.parametrize("text", ["C(C)(C)(C)(C)C", "not a molecule"])
def test_what_is_no_molecule_is_named(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rdkit")
    with pytest.raises(DataError, match="RDKit cannot read the SMILES"):
        chemistry.numbers([ASPIRIN, text], 1024)
    assert capfd.readouterr().err == ""


def test_without_rdkit_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit.Chem.rdMolDescriptors", None)
    with pytest.raises(ConfigurationError, match=r"'circular'.*fedmaml\[chemistry\]"):
        chemistry.numbers(["CCCO"], 1024)


@pytest.mark.slow
def test_rdkit_reads_every_molecule(data_dir: Path) -> None:
    pytest.importorskip("rdkit")
    _, smiles = fsmol.load(str(data_dir))
    odd = [text for text in smiles if "[PH]" in text]
    assert len(odd) > 1000
    bits, _ = chemistry.numbers([*odd, *smiles[::10]], 64)
    assert (bits.sum(1) > 0).all()
