"""Inverse design: a generator of alloys, adapted to the property that a client wants. Made up.

The network maps four latent numbers to the fractions of twelve metals; it starts as the decoder of
an auto-encoder of random compositions. A client wants the property y(c) = w . terms(c) to be y*
(`systems.alloys`). ``weights="equal"``: w is 1 for all clients, only y* is the client's own;
"secret": w ~ N(1, .6^2), too, and y* lies within 1.5 deviations of the mean of its property.

    loss of a sample = (y(c) - y*)^2 + .05 KL(c | the decoder's composition)

Every example is a latent draw whose composition is evaluated once, with its gradient: a call of the
oracle, and counted as one. Steps of adaptation take 16 fresh draws each. "hit" is the share of 192
fresh samples with |y - y*| < .2, "diversity" the mean distance of 64 of them: high hit rates are
bought with it. A generator may get y* (``condition="target"``), or also the property of 16 probes
("probes", 16 more calls, values only); then it need not adapt at all.

Gomez-Bombarelli et al. Automatic Chemical Design Using a Data-Driven Continuous Representation of
Molecules. ACS Cent. Sci. 4(2), 2018 (latent descent).
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.counters import Counter
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references.gaussian_process import around_mean, gaussian
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import alloys

_SPREAD = 0.6  # of w
_QUERIES, _SAMPLES, _PROBES, _CHOSEN = 32, 192, 16, 64
_META = {"inner.lr": 0.1, "inner.steps": 5, "inner.batch": 16, "outer.lr": 0.01,
         "outer.schedule": "cosine"}  # fmt: skip
_AVERAGING = {"inner.lr": 0.3, "inner.steps": 5, "inner.batch": 16, "outer.optimizer": "sgd",
              "outer.lr": 1.0, "adaptation.lr": 0.3, "adaptation.steps": 5,
              "adaptation.batch": 16}  # fmt: skip


@settings
class InverseDesign(Scenario):
    """Compositions with a wanted property.

    Attributes:
        seed: Determines clients and latent draws.
        weights: "secret" or "equal", see the module.
        condition: What the generator gets besides: "nothing", "target" or "probes".
        train_clients: Clients that train.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        shots: Latent draws of a new client, each a call of the oracle. A reference measures as many
            compositions of a pool.
    """

    about: ClassVar[str] = "compositions with a wanted property, by few oracle calls (made up)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200, "clients": 12},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 5, "inner.batch": 16},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.01,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"inner.steps": 7},
        "maml": _META, "fomaml": _META, "anil": _META, "meta_sgd": _META,
    }  # fmt: skip

    seed: int = 0
    weights: Literal["secret", "equal"] = "secret"
    condition: Literal["nothing", "target", "probes"] = "nothing"
    train_clients: Annotated[int, Gt(0)] = 200
    validation_clients: Annotated[int, Ge(0)] = 40
    test_clients: Annotated[int, Gt(0)] = 100
    shots: Annotated[int, Gt(0), Le(alloys.POOL - _CHOSEN)] = 80

    def problem(self) -> Problem:
        metrics = (
            Metric("hit", "1", "higher", 0.0, alloys.hit, least=0, most=1),
            Metric("diversity", "1", "higher", 0.0, alloys.diversity, least=0, most=1),
        )
        network = partial(
            alloys.Generator, {"nothing": 0, "target": 1, "probes": 17}[self.condition]
        )
        calls = Counter(
            "oracle_calls", "a composition whose property is evaluated", lambda _x, y: len(y)
        )
        return Problem(network, alloys.loss, metrics, counters=(calls,))

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return self.shots + _QUERIES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "inverse", split, round if split == "train" else 0)
        count = self.shots + (_QUERIES if split == "train" else _SAMPLES)
        z = seeding.normal(draw, clients, count, alloys.LATENT)
        wanted = self.wanted(clients)
        decoder = {name: value.double() for name, value in alloys.decoder().items()}
        start = torch.stack([alloys.decoded(decoder, own) for own in z])  # alone: the same bits
        y = torch.cat([_repeated(wanted, count), start], 2)
        x = torch.cat([z, _repeated(self._condition(wanted), count)], 2)
        support = Batch(x[:, : self.shots], y[:, : self.shots])
        query = Batch(x[:, self.shots :], y[:, self.shots :])
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        return (
            Reference("pool", "random compositions: no call of the oracle", _from_pool),
            Reference("Gaussian process on the pool", f"{self.shots} members are measured; the "
                      f"{_CHOSEN} of the others that are predicted nearest to y*", self._process,
                      grid=tuple({"length": length} for length in (0.3, 0.5, 0.8))),
            Reference("latent descent", "the decoder stays; 5 calls, with gradient, a sample",
                      _latent_descent, grid=tuple({"lr": lr} for lr in (0.1, 0.3, 1.0))),
        )  # fmt: skip

    def wanted(self, clients: Sequence[int]) -> Tensor:
        """Return (y*, w) of clients, float64 ``(clients, 4)``."""
        key = seeding.key(self.seed, "inverse")
        share = seeding.uniform(seeding.key(key, "target"), clients, 1)
        if self.weights == "equal":
            return torch.cat(
                [2.8 * share - 1.4, torch.ones_like(share).expand(-1, alloys.TERMS)], 1
            )
        w = 1 + _SPREAD * seeding.normal(key, clients, alloys.TERMS)
        values = [(alloys.terms(alloys.pool()) * own).sum(1) for own in w]  # alone: the same bits
        mean, spread = (torch.stack([of(own) for own in values]) for of in (torch.mean, torch.std))
        return torch.cat([(mean + 1.5 * (2 * share[:, 0] - 1) * spread)[:, None], w], 1)

    def _condition(self, wanted: Tensor) -> Tensor:
        target = wanted[:, :1] if self.condition != "nothing" else wanted[:, :0]
        if self.condition != "probes":
            return target
        probes = alloys.terms(alloys.pool()[:_PROBES])
        return torch.cat([target, (wanted[:, None, 1:] * probes).sum(-1)], 1)

    def _process(self, _clients: TrainingClients, length: float) -> Adapt:
        measured, others = alloys.pool()[: self.shots], alloys.pool()[self.shots :]
        covariance = gaussian(1.0, length)

        def adapt(support: Batch) -> Predictor:
            y, target = alloys.oracle(measured, support.y[:1].double()), support.y[0, 0].double()
            trials = Batch(measured, y)
            process = around_mean(trials, covariance, 1e-4)
            away = (process.adapt(trials)(others)[:, 0] - target).abs()
            return _cycled(others[away.argsort()[:_CHOSEN]])

        return adapt


def _repeated(values: Tensor, count: int) -> Tensor:
    return values[:, None].expand(-1, count, -1)


def _cycled(compositions: Tensor) -> Predictor:
    """Return compositions as samples, one after another."""

    def predict(x: Tensor) -> Tensor:
        rows = torch.arange(len(x)) % len(compositions)
        return compositions[rows].clamp(min=1e-9).log().to(x.dtype)

    return predict


def _from_pool(_clients: TrainingClients) -> Adapt:
    return lambda _support: _cycled(alloys.pool())


def _latent_descent(_clients: TrainingClients, lr: float) -> Adapt:
    decoder = {name: value.double() for name, value in alloys.decoder().items()}

    def adapt(support: Batch) -> Predictor:
        def predict(x: Tensor) -> Tensor:
            z, y = x[:, : alloys.LATENT].double(), support.y[:1].double()
            for _ in range(5):
                z = z.detach().requires_grad_()
                c = alloys.decoded(decoder, z).softmax(-1)
                (slope,) = torch.autograd.grad((alloys.oracle(c, y) - y[:, 0]).square().sum(), z)
                z = z - lr * slope
            return alloys.decoded(decoder, z).detach().to(x.dtype)

        return predict

    return adapt
