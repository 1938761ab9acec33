"""Suffix rules: each client's rule differs from the others' in what it appends. Learned rates win.

A word is a vector x ~ N(0, I_d); client i maps it to y = A_i x + b_i + noise. The stem A_i = A_0 +
0.1 u_i v_i' is nearly the same everywhere (u_i ~ N(0, I_d), |v_i| = 1); the suffix b_i ~ N(mu, I_d)
is the client's own. From one or two examples b can be learned and A cannot, so a single inner rate
is a bad compromise: what moves b far enough spoils A. Meta-SGD, with a rate for every entry, finds
the rate of a Bayesian for b and nearly none for A.

With squared error averaged over d outputs, n examples and A_0 known, one step reaches the posterior
mean of b with the rate

    alpha_b = (d / 2) / (1 + v / n),    v = noise^2 + 0.1^2

where v is the variance that b does not explain (the client's own part of A counts as noise). Made
up for this package, after the suffix rules of natural languages (UniMorph: Kirov et al. 2018).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.losses import squared_error
from fedmaml.core.metrics import MEAN_SQUARED_ERROR
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.dealing import first_as_support, numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_NOISE = 0.05
_OWN = 0.1  # size of the client's own part of A
_META = {"inner.lr": 0.3, "inner.steps": 5, "outer.lr": 0.01, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.3, "adaptation.steps": 5}  # fmt: skip


@settings
class SuffixRules(Scenario):
    """Affine rules of which the clients share the linear part.

    Attributes:
        seed: Determines rules and words.
        train_clients: Rules that train.
        validation_clients: Rules for evaluation during training.
        test_clients: Rules for the final evaluation.
        shots: Support examples of a rule.
        queries: Query examples of a rule.
        dimension: d.
    """

    about: ClassVar[str] = "affine rules that differ in their suffix: where learned rates win"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 1500, "clients": 20},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 20},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.01,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META,
        "fomaml": _META,
        "meta_sgd": {"inner.lr": 0.3, "inner.steps": 1, "outer.lr": 0.02,
                     "outer.schedule": "cosine"},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 40
    validation_clients: Annotated[int, Ge(0)] = 20
    test_clients: Annotated[int, Gt(0)] = 60
    shots: Annotated[int, Gt(0)] = 1
    queries: Annotated[int, Gt(0)] = 20
    dimension: Annotated[int, Gt(0)] = 6

    def problem(self) -> Problem:
        d = self.dimension
        return Problem(lambda: LinearModel(d, d), squared_error, (MEAN_SQUARED_ERROR,))

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return self.shots + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        count = self.shots + self.queries
        stem, suffix = self.rules(clients)
        key = seeding.key(self.seed, "suffix_rules", split, round if split == "train" else 0)
        drawn = seeding.normal(key, clients, 2, count, self.dimension)
        x = drawn[:, 0]
        y = x @ stem.mT + suffix[:, None] + _NOISE * drawn[:, 1]
        return [first_as_support(clients, x, y, self.shots)]

    def references(self) -> tuple[Reference, ...]:
        about = "the posterior mean of the suffix, given the common stem and the suffixes' mean"
        return (
            references.constant(references.NUMBERS, "mean of the support"),
            references.ridge_to_the_mean(weights=(0.001, 0.01, 0.1, 1.0)),
            Reference("oracle", about, self._oracle, oracle=True),
        )

    def best_rate(self) -> float:
        """Return alpha_b, the rate with which one step reaches the posterior mean of b."""
        return self.dimension / 2 * self._shrinkage(self.shots)

    def rules(self, clients: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return A_i ``(clients, d, d)`` and b_i ``(clients, d)``, float64."""
        stem, mean = _common(self.seed, self.dimension)
        own = seeding.normal(seeding.key(self.seed, "suffix_rules"), clients, 3, self.dimension)
        turned = own[:, 1] / own[:, 1].norm(dim=-1, keepdim=True)
        return stem + _OWN * own[:, 0, :, None] * turned[:, None], mean + own[:, 2]

    def _shrinkage(self, examples: int) -> float:
        return 1 / (1 + (_NOISE**2 + _OWN**2) / examples)

    def _oracle(self, _clients: TrainingClients) -> Adapt:
        stem, mean = _common(self.seed, self.dimension)

        def adapt(support: Batch) -> Predictor:
            seen = (support.y.double() - support.x.double() @ stem.T).mean(0)
            suffix = mean + self._shrinkage(len(support.y)) * (seen - mean)
            return lambda x: (x.double() @ stem.T + suffix).to(x.dtype)

        return adapt


@lru_cache(maxsize=8)
def _common(seed: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Return A_0 ``(d, d)``, of entries N(0, 1/d), and mu ``(d,)``, of entries N(0, 1)."""
    key = seeding.key(seed, "suffix_rules", "common")
    drawn = seeding.normal(key, [0], dimension + 1, dimension)[0]
    return drawn[:-1] / dimension**0.5, drawn[-1]
