"""Payload by a network: the arms of `payload`, whose mechanics nobody knows.

An example is one time: sines and cosines of the angles, speeds and accelerations, from which a
perceptron predicts both torques, in tens of Nm. A client is an arm with a payload
(`systems.payloads`). The support are the first ``seconds`` of a motion, the query is another motion
of 6 s, without noise where it is evaluated.

An evaluated query ends with 16 poses at rest, and the torques of the usual arm with this payload
there: "mass" is read from a network's torques at these poses, by generalised least squares of the
terms of gravity, and "torque" is the error of all other rows.

References read the rows of the mechanics from the same numbers, so they say what it is worth to
know them.

Nguyen-Tuong, Peters. Model learning for robot control: a survey. Cognitive Processing 12, 2011.
Made-up arms.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.losses import squared_error
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import payloads
from fedmaml.simulations.systems.arm import OF_MASS, PARAMETERS, motion, regressors

_INPUTS = 10  # sines and cosines of three angles, two speeds, two accelerations
_TENS = 10.0  # Nm, of outputs
_GRAVITY = [3, 4]  # among the parameters
_FAST, _HASTY = 2.0, 5.0  # of speeds and accelerations, in 1/s and 1/s^2
_META = {"inner.lr": 0.05, "inner.steps": 5, "outer.lr": 0.02, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.15, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.03, "adaptation.steps": 100}  # fmt: skip


@settings
class PayloadNetwork(Scenario):
    """Arms with an unknown payload and unknown mechanics.

    Attributes:
        seed: Determines arms and motions.
        train_clients: Arms that train.
        validation_clients: Arms for evaluation during training.
        test_clients: Arms for the final evaluation.
        seconds: Length of the motion that a new arm adapts on.
        hidden: Width of the two hidden layers.
        postures: Mean angles of a motion lie within so many degrees of straight, either side.
    """

    about: ClassVar[str] = "torques of an arm with a payload by a network, after two seconds, in Nm"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 150, "clients": 16},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 300},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"inner.lr": 0.05, "outer.optimizer": "adam", "outer.lr": 0.02,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META | {"outer.lr": 0.01},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 100
    validation_clients: Annotated[int, Ge(0)] = 25
    test_clients: Annotated[int, Gt(0)] = 80
    seconds: Annotated[float, Ge(0.1), Le(60)] = 2.0
    hidden: Annotated[int, Ge(1)] = 48
    postures: Annotated[float, Ge(0), Le(180)] = 45.0

    def problem(self) -> Problem:
        sizes = (_INPUTS, self.hidden, self.hidden, 2)
        metrics = (
            Metric("torque", "Nm", "lower", math.inf, torque_error, least=0),
            Metric("mass", "kg", "lower", math.inf, mass_error, least=0),
        )
        return Problem(lambda: MLP(sizes, torch.tanh), squared_error, metrics, ordered=True)

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return payloads.samples(self.seconds) + payloads.QUERIES

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        seen = partial(_seen, spread=math.radians(self.postures))
        mass, support, query = payloads.support_and_query(
            self.seed, split, clients, round, self.seconds, seen
        )
        if split != "train":
            rest = _at_rest(mass)
            query = Batch(torch.cat([query.x, rest.x], 1), torch.cat([query.y, rest.y], 1))
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        return tuple(map(_of_network, payloads.of_mechanics()))


def torque_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the root mean squared error, in Nm, of torques in tens of Nm, without those at rest.

    Args:
        prediction: ``(times + 16, 2)``.
        y: The same of the truth.
    """
    return _TENS * (prediction - y)[: -len(poses())].square().mean().sqrt()


def mass_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the error of the mass that is read from the last 16 rows, in kg."""
    wrong = (prediction - y)[-len(poses()) :].flatten()
    return (_TENS * wrong.double() @ mass_at_rest()).abs()


@lru_cache(maxsize=1)
def poses() -> Tensor:
    """Return 16 pairs of angles, ``(16, 2)``."""
    angles = torch.linspace(-1.2, 1.2, 4, dtype=torch.float64)
    return torch.cartesian_prod(angles, angles)


@lru_cache(maxsize=1)
def mass_at_rest() -> Tensor:
    """Return c with mass = c'(torques at rest - those of the usual arm), in kg/Nm, ``(32,)``."""
    still = torch.zeros_like(poses())
    gravity = regressors(poses(), still, still).flatten(0, 1)[:, _GRAVITY]
    weights = payloads.reading()[_GRAVITY]
    weights = weights / (weights @ OF_MASS[_GRAVITY])
    return weights @ torch.linalg.pinv(gravity)


def _at_rest(mass: Tensor) -> Batch:
    """Return the poses at rest and the torques of the usual arm with these payloads."""
    q = poses().expand(len(mass), -1, -1)
    still = torch.zeros_like(q)
    pi = PARAMETERS + mass[:, None] * OF_MASS
    return Batch(
        _inputs(q, still, still),
        (regressors(q, still, still) @ pi[:, None, :, None])[..., 0] / _TENS,
    )


def _seen(
    key: int, clients: Sequence[int], times: Tensor, pi: Tensor, *, noisy: bool, spread: float
) -> Batch:
    """Return the motion ``(clients, times, 10)`` and both torques ``(clients, times, 2)``."""
    y = payloads.measured(key, clients, times, pi, noisy=noisy, spread=spread).y
    x = _inputs(*motion(key, clients, times, spread))
    return Batch(x, y.unflatten(1, (-1, 2)) * payloads.NOISE / _TENS)


def _inputs(q: Tensor, dq: Tensor, ddq: Tensor) -> Tensor:
    angles = torch.cat([q, q.sum(-1, keepdim=True)], -1)
    return torch.cat([angles.sin(), angles.cos(), dq / _FAST, ddq / _HASTY], -1)


def mechanics_of(x: Tensor) -> Tensor:
    """Return the scaled rows of Y that belong to inputs of the network, ``(torques, 7)``."""
    x = x.double()
    angles = torch.atan2(x[:, :2], x[:, 3:5])
    matrix = regressors(angles, _FAST * x[:, 6:8], _HASTY * x[:, 8:])
    return (matrix / payloads.NOISE[:, None] / payloads.scales()).flatten(0, 1)


def _of_network(reference: Reference) -> Reference:
    """Return a reference of mechanics that takes what the network takes."""

    def rows(examples: Batch) -> Batch:
        y = (examples.y.double() * _TENS / payloads.NOISE).flatten()
        return Batch(mechanics_of(examples.x), y)

    def fit(clients: TrainingClients, **chosen: float) -> Adapt:
        of_rows = replace(clients, deal=lambda: [rows(examples) for examples in clients.deal()])
        adapt = reference.fit(of_rows, **chosen)

        def of_support(support: Batch) -> Predictor:
            predict = adapt(rows(support))
            return lambda x: (predict(mechanics_of(x)).view(-1, 2) * payloads.NOISE / _TENS).to(
                x.dtype
            )

        return of_support

    return replace(reference, fit=fit)
