"""Bias and variance of adapting to a few examples: every figure is known exactly.

A client has y = w'x + s e with x ~ N(0, I_d), e ~ N(0, 1) and its own w ~ N(mu, tau^2 I). From
theta it takes K gradient steps of rate a on the mean of (prediction - y)^2 / 2 over n support
examples. With the moments m_j = E tr(S^j) / d of S = X'X / n, and binomials C, the expected squared
error of a new example is

    F = b D + v s^2 + s^2        D = E |theta - w|^2 = |theta - mu|^2 + d tau^2
    b = sum_j C(2K, j) (-a)^j m_j
    v = (d / n) sum_{j >= 1} (C(2K, j) - 2 C(K, j)) (-a)^j m_{j-1}

The first term falls with more or larger steps (the bias towards theta), the second grows (the noise
of the support). MAML's and FOMAML's theta* is mu; MAML's learned rate minimises F, at K = 1 it is

    a* = tau^2 n / (tau^2 (n + d + 1) + s^2)

and FOMAML's solves b D + v s^2 = a1 D, a1 = sum_j C(K, j) (-a)^j m_j, which is another rate for
K > 1: at K = 2, n = 20 it adds 55 % to F. Moments of Wishart matrices: Hanlon, Stanley, Stembridge.
Some combinatorial aspects of the spectra of normally distributed random matrices. 1992.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.dealing import first_as_support, numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_META = {"inner.lr": 0.2, "inner.steps": 5, "outer.lr": 0.02, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 0.3,
              "adaptation.lr": 0.2, "adaptation.steps": 5}  # fmt: skip


def squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the mean of (prediction - y)^2; predictions ``(examples, 1)``, y ``(examples,)``."""
    return 2 * half_squared_error(prediction, y).mean()


@settings
class BiasVariance(Scenario):
    """Linear clients around a common mean, with formulas for everything.

    Attributes:
        seed: Determines clients and examples.
        train_clients: Clients that may be drawn for training.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        shots: n, support examples.
        queries: Query examples.
        dimension: d.
        spread: tau, the standard deviation of the clients' entries of w.
        noise: s.
        mean: Every entry of mu.
    """

    about: ClassVar[str] = "bias and variance of few-shot adaptation, all of it in closed form"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 800, "clients": 50, "dtype": "float64"},
        "local": {"rounds": 0, "inner.lr": 0.2, "inner.steps": 50},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.02,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META,
        "fomaml": _META,
        "meta_sgd": _META,
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 100_000
    validation_clients: Annotated[int, Ge(0)] = 100
    test_clients: Annotated[int, Gt(0)] = 1000
    shots: Annotated[int, Gt(0)] = 10
    queries: Annotated[int, Gt(0)] = 20
    dimension: Annotated[int, Gt(0)] = 10
    spread: Annotated[float, Ge(0)] = 0.5
    noise: Annotated[float, Ge(0)] = 0.5
    mean: float = 1.0

    def problem(self) -> Problem:
        metric = Metric("mse", "1", "lower", math.inf, squared_error, least=0)
        return Problem(
            lambda: LinearModel(self.dimension, 1, bias=False), half_squared_error, (metric,)
        )

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return self.shots + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        own = seeding.normal(seeding.key(self.seed, "bias_variance"), clients, self.dimension, 1)
        weights = self.mean + self.spread * own
        key = seeding.key(self.seed, "bias_variance", split, round if split == "train" else 0)
        drawn = seeding.normal(key, clients, self.shots + self.queries, self.dimension + 1)
        x = drawn[..., :-1]
        y = (x @ weights)[..., 0] + self.noise * drawn[..., -1]
        return [first_as_support(clients, x, y, self.shots)]

    def references(self) -> tuple[Reference, ...]:
        def inputs(x: Tensor) -> Tensor:
            return x

        weights = (self.noise**2 / self.spread**2,) if self.spread else (1.0,)
        return (
            references.least_squares(inputs),
            references.ridge_to_the_mean(inputs, weights),
        )

    def expected_error(self, steps: int, lr: float, distance: float = 0.0) -> float:
        """Return F after adaptation.

        Args:
            steps: K.
            lr: a.
            distance: |theta - mu|^2.
        """
        b, _, v = coefficients(self.shots, self.dimension, steps, Fraction(lr))
        far = distance + self.dimension * self.spread**2
        return float(b) * far + (1 + float(v)) * self.noise**2


def coefficients(
    shots: int, dimension: int, steps: int, lr: Fraction
) -> tuple[Fraction, Fraction, Fraction]:
    """Return b, a1 and v of the module docstring, exactly."""
    m = [moment(j, shots, dimension) for j in range(2 * steps + 1)]
    both = [math.comb(2 * steps, j) * (-lr) ** j for j in range(2 * steps + 1)]
    one = [math.comb(steps, j) * (-lr) ** j for j in range(2 * steps + 1)]
    b = sum((c * mj for c, mj in zip(both, m, strict=True)), Fraction(0))
    a1 = sum((c * mj for c, mj in zip(one, m, strict=True)), Fraction(0))
    noise = zip(both[1:], one[1:], m[:-1], strict=True)
    v = Fraction(dimension, shots) * sum((mj * (c - 2 * o) for c, o, mj in noise), Fraction(0))
    return b, a1, v


@lru_cache(maxsize=1024)
def moment(power: int, shots: int, dimension: int) -> Fraction:
    """Return m_j = E tr(S^j) / d of S = X'X / n exactly: a sum over the partitions of j."""
    if power == 0:
        return Fraction(1)
    total = sum((_term(rows, shots, dimension) for rows in _partitions(power)), Fraction(0))
    return total * 2 * power / (dimension * shots**power)


def _term(rows: tuple[int, ...], shots: int, dimension: int) -> Fraction:
    """Return a partition's term: products over its boxes, row i and column c from 0.

    (2c - i, without the first box) (d + 2c - i) (n + 2c - i) / ((2A + L + 1) (2A + L + 2)), where
    arm A and leg L count the boxes to the right and below.
    """
    value = Fraction(1)
    for i, width in enumerate(rows):
        for c in range(width):
            arm, leg = width - c - 1, sum(c < below for below in rows[i + 1 :])
            first = 1 if i == c == 0 else 2 * c - i
            value *= Fraction(
                first * (dimension + 2 * c - i) * (shots + 2 * c - i),
                (2 * arm + leg + 1) * (2 * arm + leg + 2),
            )
    return value


def _partitions(number: int, largest: int | None = None) -> Iterator[tuple[int, ...]]:
    """Yield the partitions of a number, parts falling."""
    if number == 0:
        yield ()
        return
    for first in range(min(number, largest or number), 0, -1):
        for rest in _partitions(number - first, first):
            yield (first, *rest)
