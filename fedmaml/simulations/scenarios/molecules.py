"""Molecules: which of them are active? Assays of FS-Mol that were never seen, 16 molecules known.

An assay is a client. Of the published training assays with 48 to 400 molecules, at least 20 of
either kind, 500 train and 40 validate, which share no target protein with them; the 39 published
validation assays test, and share no target with any. The support is stratified by the assay's own
share of active molecules, at least two of either kind; the query are up to 192 others. Who has too
few distinct molecules for a support and 16 others is left out.

A molecule is 1,024 bits and eight counts in standard deviations of the training assays: bits of
substrings of its SMILES (`systems.molecules`), or circular ones of RDKit (`systems.chemistry`).
"delta_auprc" is the average precision less the share of active ones in the query. Random scores do
not have 0: E AP = c + (H_N / N) (1 - c) with N examples, P of them active, c = (P - 1) / (N - 1),
H_N = 1 + 1/2 + ... + 1/N.

A molecule may occur in several assays, so 27 % of those of the test occur in training, too, with
labels of other targets. Molecules of one assay with equal bits are taken once. Not comparable with
published tables, which need the test assays. Data: see `datasets.fsmol`; Stanley et al. FS-Mol: A
Few-Shot Learning Dataset of Molecules. NeurIPS Datasets and Benchmarks, 2021.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.figures import Figure, worst_decile
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import Metric, average_precision
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets.moments import standardised, sums, unsound_sums
from fedmaml.simulations.dealing import in_order
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import assays, chemistry, molecules

CLASSES, BITS = 2, 1024
_NUMBERS = {"substrings": molecules.numbers, "circular": chemistry.numbers}
_FEWEST, _FEWEST_EACH = 48, 20  # molecules of an assay, and of either kind
_MIN_EACH = 2  # of a support
_QUERIES, _TRAINING_QUERIES = 192, 16
_FAR = 4.0  # standard deviations; what is further away is moved there
_META = {"inner.lr": 0.05, "inner.steps": 10, "outer.lr": 0.003, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.3, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 20}  # fmt: skip


@settings
class Molecules(Scenario):
    """Active molecules of unseen assays.

    Attributes:
        seed: Determines which assays train, and all splits.
        shots: Support molecules of an assay.
        hidden: Width of the two hidden layers.
        fingerprint: "substrings" of the SMILES, or "circular", which needs the extra ``chemistry``.
        data_dir: Folder with the data, see `datasets.fsmol.load`.
    """

    about: ClassVar[str] = "active molecules of unseen assays, 16 of them known (real, FS-Mol)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 120, "clients": 8},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 20},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.003,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"inner.lr": 0.1, "outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META, "anil": _META,
        "protonet": {"rounds": 240, "outer.lr": 0.001, "outer.schedule": "cosine"},
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = {
        "duplicates-across-clients": "a molecule may be active, or not, in several assays"
    }

    seed: int = 0
    shots: Annotated[int, Ge(2 * _MIN_EACH), Le(128)] = 16
    hidden: Annotated[int, Gt(0)] = 48
    fingerprint: Literal["substrings", "circular"] = "substrings"
    data_dir: str = ""

    def problem(self) -> Problem:
        sizes = (BITS + molecules.DESCRIPTORS, self.hidden, self.hidden, CLASSES)
        delta = Metric("delta_auprc", "1", "higher", -1.0, delta_auprc, least=-1, most=1)
        return Problem(lambda: MLP(sizes), cross_entropy, (delta,), classes=CLASSES)

    def clients(self) -> dict[Split, range]:
        return _dealt(self).clients

    def statistics(self, client: int) -> Params:
        return sums(_dealt(self).assays[client].counts)

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        return unsound_sums(statistics)

    def max_examples(self, client: int) -> int:
        return self.shots + _TRAINING_QUERIES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape(
            {client: self._task(split, client, round, shared_statistics) for client in clients}
        )

    def left_out(self) -> Mapping[str, str]:
        return _dealt(self).left_out

    def references(self) -> tuple[Reference, ...]:
        return (
            references.most_similar(_tanimoto, "Tanimoto neighbours", (1, 3, 16)),
            references.kernel_ridge(_tanimoto, "Tanimoto kernel ridge"),
            references.nearest_class_mean(CLASSES),
            references.random_forest(references.classes(CLASSES), trees=60, pooled=False),
        )

    def figures(self) -> tuple[Figure, ...]:
        return (worst_decile(self.problem().metrics[0]),)

    def _task(self, split: Split, client: int, round: int, totals: Params) -> Task:
        bits, counts, y = _dealt(self).assays[client]
        draw = seeding.key(self.seed, "molecules", "split", split, round * (split == "train"))
        order = seeding.permutation(draw, [client], len(y))[0]
        active = _active_in_support(y, self.shots)
        kinds = [order[y[order] == 1][:active], order[y[order] == 0][: self.shots - active]]
        support = order[torch.isin(order, torch.cat(kinds))]
        others = order[~torch.isin(order, support)]
        scaled = standardised(counts, totals).clamp(-_FAR, _FAR)
        x = torch.cat([bits.double(), scaled], 1).float()
        queries = _TRAINING_QUERIES if split == "train" else _QUERIES
        return in_order(x, y, torch.cat([support, others]), len(support), queries)


def _tanimoto(left: Tensor, right: Tensor) -> Tensor:
    return molecules.similarity(left[:, :BITS], right[:, :BITS])


def delta_auprc(logits: Tensor, y: Tensor) -> Tensor:
    """Return the average precision less the share of active ones; equal scores count as one."""
    active = y.to(logits.dtype)
    return average_precision((logits[:, 1] - logits[:, 0])[:, None], active) - active.mean()


@lru_cache(maxsize=2)
def _dealt(scenario: Molecules) -> assays.Dealt:
    distinct = scenario.shots + _TRAINING_QUERIES
    return assays.dealt(
        seeding.key(scenario.seed, "molecules", "assays"),
        max(_FEWEST, distinct),
        _FEWEST_EACH,
        distinct,
        _NUMBERS[scenario.fingerprint],
        BITS,
        scenario.data_dir,
    )


def _active_in_support(active: Tensor, shots: int) -> int:
    """Return how many of a support are active: the assay's share, at least two of either kind."""
    share = float(active.double().mean())
    return min(max(round(shots * share), _MIN_EACH), shots - _MIN_EACH)
