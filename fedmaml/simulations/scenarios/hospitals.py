"""Hospitals: predict heart disease at four real hospitals, naturally federated.

Each hospital is one client. Two protocols:

    within          70 % of each hospital's patients train (stratified by disease), the model adapts
                    on them and is evaluated on the other 30 % of the same hospital
    leave-one-out   three hospitals train with all their patients; the held-out one adapts on
                    ``shots`` of its patients, drawn at random, and is evaluated on the others

No hospital shows its patients: each training hospital sends counts, sums and sums of squares of
its features once, with the roll call; from their totals come the means that replace missing values
and the scales that standardise, for all hospitals alike.

With three or four tasks, and labels that mean the same everywhere, meta-learning has little to
gain here: docs/results.md has the figures. Accuracy says little for Switzerland, where 115 of 123
patients are ill: see balanced accuracy and AUC.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import binary_cross_entropy
from fedmaml.core.metrics import ACCURACY, BALANCED_ACCURACY, ROC_AUC
from fedmaml.core.networks import MLP, LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import heart_disease
from fedmaml.simulations.datasets.moments import standardised, sums, unsound_sums
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_AVERAGING = {"inner.lr": 0.3, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 5}  # fmt: skip
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.005}


@settings
class Hospitals(Scenario):
    """Heart disease at four hospitals: 0 Cleveland, 1 Hungary, 2 Switzerland, 3 Long Beach.

    Attributes:
        seed: Determines splits and the held-out hospital's support patients.
        protocol: "within" or "leave-one-out".
        held_out: Number of the hospital that does not train, with "leave-one-out"; -1: the seed
            modulo 4.
        shots: Support patients of the held-out hospital, and of each training task with it.
        network: "mlp" (16-16-1, tanh) or "lr", logistic regression.
        data_dir: Folder with the data, see `datasets.heart_disease.load`; a site needs its own
            file only.
    """

    about: ClassVar[str] = "heart disease at 4 real hospitals (UCI), naturally federated"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 100},
        "local": {"rounds": 0, "inner.lr": 0.3, "inner.steps": 300},
        "fedavg": _AVERAGING,
        "fedadam": {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "adam", "outer.lr": 0.003,
                    "adaptation.lr": 0.1, "adaptation.steps": 20},
        "fedprox": _AVERAGING | {"mu": 0.1},
        "reptile": _AVERAGING | {"outer.lr": 0.5},
        "fedrep": _AVERAGING | {"head.lr": 0.3, "head.steps": 5},
        "maml": _META,
        "fomaml": _META,
        "meta_sgd": _META,
    }  # fmt: skip

    only_with: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {
        "held_out": ("protocol", ("leave-one-out",))
    }

    seed: int = 0
    protocol: Literal["within", "leave-one-out"] = "within"
    held_out: Annotated[int, Ge(-1), Le(3)] = -1
    shots: Annotated[int, Gt(1), Lt(100)] = 20
    network: Literal["mlp", "lr"] = "mlp"
    data_dir: str = ""

    def problem(self) -> Problem:
        inputs = len(heart_disease.FEATURES)

        def network() -> nn.Module:
            if self.network == "lr":
                return LinearModel(inputs, 1)
            return MLP((inputs, 16, 1), torch.tanh)

        return Problem(
            network,
            binary_cross_entropy,
            (ACCURACY, BALANCED_ACCURACY, ROC_AUC),
            l2=1e-3,
        )

    def clients(self) -> dict[Split, range]:
        everyone = range(len(heart_disease.HOSPITALS))
        if self.protocol == "within":
            return {"train": everyone, "validation": range(0), "test": everyone}
        # Ranges leave no gap, so the held-out hospital takes the last number.
        return {"train": everyone[:-1], "validation": range(0), "test": everyone[-1:]}

    def hospital(self, client: int) -> str:
        """Return the name of the hospital that has this client number."""
        return heart_disease.HOSPITALS[self._index(client)]

    def statistics(self, client: int) -> Params:
        return sums(self._patients(client)[0])

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        return unsound_sums(statistics)

    def max_examples(self, client: int) -> int:
        return len(self._patients(client)[1])

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape(
            {client: self._task(split, client, round, shared_statistics) for client in clients}
        )

    def references(self) -> tuple[Reference, ...]:
        return (
            references.constant(references.BINARY, "base rate"),
            references.logistic_regression(),
            references.pooled_logistic_regression(),
        )

    def groups(self, client: int) -> Mapping[str, str]:
        return {"hospital": self.hospital(client)}

    def _task(self, split: Split, client: int, round: int, shared_statistics: Params) -> Task:
        x, y = self._patients(client)
        x = standardised(x, shared_statistics)
        if split == "train":
            draw = seeding.key(self.seed, "hospitals", "split", round)
            order = seeding.permutation(draw, [client], len(y))[0]
            cut = self.shots if self.protocol == "leave-one-out" else len(y) // 2
        elif self.protocol == "leave-one-out":
            draw = seeding.key(self.seed, "hospitals", "support")
            order, cut = seeding.permutation(draw, [client], len(y))[0], self.shots
        else:
            held_x, held_y = self._patients(client, held=True)
            # By chance, not by disease: a smaller support must be a fair sample.
            draw = seeding.key(self.seed, "hospitals", "support")
            order = seeding.permutation(draw, [client], len(y))[0]
            return Task(
                Batch(x[order], y[order]), Batch(standardised(held_x, shared_statistics), held_y)
            )
        chosen, others = order[:cut], order[cut:]
        return Task(Batch(x[chosen], y[chosen]), Batch(x[others], y[others]))

    def _patients(self, client: int, held: bool = False) -> tuple[Tensor, Tensor]:
        """Return the patients that train, or (``held``) those held back for the evaluation."""
        x, y = heart_disease.load_one(self._index(client), self.data_dir)
        if self.protocol == "leave-one-out":
            return x, y
        draw = seeding.key(self.seed, "hospitals", "within")
        order = seeding.permutation(draw, [client], len(y))[0]
        chosen = []
        for label in (0.0, 1.0):
            members = order[y[order] == label]
            cut = (7 * len(members) + 5) // 10
            chosen.append(members[cut:] if held else members[:cut])
        rows = torch.cat(chosen)
        return x[rows], y[rows]

    def _index(self, client: int) -> int:
        if self.protocol == "within":
            return client
        left_out = self.seed % 4 if self.held_out < 0 else self.held_out
        others = [index for index in range(4) if index != left_out]
        return [*others, left_out][client]
