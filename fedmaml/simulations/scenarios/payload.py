"""Payload: what does a robot arm carry? Half a second of motion, and its mechanics are linear.

Torques of the joints of a planar arm are Y(q, q', q'') pi (`systems.arm`) and noise of 1.5 and
.8 Nm. A client is an arm: m kg at its tip, m ~ U(0, 3), add m (l1^2 + l2^2, l1 l2, l2^2, g l1,
g l2, 0, 0) to pi; inertia and gravity differ by 5 % between arms, friction by
50 %. Joints move along three sinusoids each. The support are the first ``seconds``, the query is
another motion of 6 s, without noise where it is evaluated. An example is one torque, in units of
its noise; columns of Y have mean square 1.

The last query row of an evaluated arm reads the mass from pi, by generalised least squares: "mass"
is the error there, "torque" that of all others. What no gradient trains is better here: the
posterior under the arms' own mean and covariance, from sums that each arm sends once.

Gautier, Khalil. Exciting Trajectories for the Identification of Base Inertial Parameters of
Robots. IJRR 11(4), 1992. Made-up arms.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.linear import Prior
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations import references
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems.arm import OF_MASS, PARAMETERS, motion, regressors

_HEAVIEST = 3.0  # kg
_SPREAD = torch.tensor([0.05] * 5 + [0.5] * 2, dtype=torch.float64)
NOISE = torch.tensor([1.5, 0.8], dtype=torch.float64)  # Nm
_SAMPLES_A_SECOND, _OTHER_SECONDS, _QUERIES = 50, 6.0, 60
_META = {"inner.lr": 0.1, "inner.steps": 5, "outer.lr": 0.1, "outer.schedule": "cosine"}
_BOUND = 20.0  # some arms' motions have curvatures above 20, where steps of .1 diverge
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 300,
              "adaptation.bound": _BOUND}  # fmt: skip


@settings
class Payload(Scenario):
    """Arms with an unknown payload.

    Attributes:
        seed: Determines arms and motions.
        train_clients: Arms that train.
        validation_clients: Arms for evaluation during training.
        test_clients: Arms for the final evaluation.
        seconds: Length of the motion that a new arm adapts on.
    """

    about: ClassVar[str] = "payload of a two-link arm from half a second of motion, in Nm and kg"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 1500, "clients": 20, "dtype": "float64"},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 300, "inner.bound": _BOUND},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.1,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META | {"outer.lr": 0.03},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 60
    validation_clients: Annotated[int, Ge(0)] = 200
    test_clients: Annotated[int, Gt(0)] = 600
    seconds: Annotated[float, Ge(0.1), Le(60)] = 0.5

    def problem(self) -> Problem:
        metrics = (
            Metric("torque", "Nm", "lower", math.inf, torque_error, least=0),
            Metric("mass", "kg", "lower", math.inf, _mass_error, least=0),
        )
        inputs = len(PARAMETERS)
        return Problem(
            lambda: LinearModel(inputs, 1, bias=False), half_squared_error, metrics, ordered=True
        )

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def most_examples(self, client: int) -> int:
        return 2 * (self._samples() + _QUERIES)

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        key = seeding.key(self.seed, "payload", split, round if split == "train" else 0)
        mass, own = self.arms(clients)
        early = torch.arange(self._samples(), dtype=torch.float64) / _SAMPLES_A_SECOND
        late = torch.linspace(0, _OTHER_SECONDS, _QUERIES, dtype=torch.float64)
        support = _measured(seeding.key(key, "support"), clients, early, own, noisy=True)
        query = _measured(seeding.key(key, "query"), clients, late, own, noisy=split == "train")
        if split != "train":
            weights = reading()
            query = Batch(
                torch.cat([query.x, (weights / scales()).expand(len(clients), 1, -1)], 1),
                torch.cat([query.y, mass[:, None] + weights @ PARAMETERS], 1),
            )
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        about = "the posterior mean, given the arms' distribution (of the mass, its variance)"
        return (
            references.least_squares(_as_they_are),
            references.ridge_to_the_mean(_as_they_are, (0.01, 0.1, 1.0, 10.0)),
            references.hierarchical_ridge(_as_they_are),
            Reference("oracle", about, _oracle, oracle=True),
        )

    def arms(self, clients: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return masses in kg ``(clients,)`` and parameters pi ``(clients, 7)``."""
        key = seeding.key(self.seed, "payload")
        mass = _HEAVIEST * seeding.uniform(seeding.key(key, "mass"), clients)
        noise = seeding.normal(seeding.key(key, "arm"), clients, len(PARAMETERS))
        return mass, PARAMETERS * (1 + _SPREAD * noise) + mass[:, None] * OF_MASS

    def _samples(self) -> int:
        return round(self.seconds * _SAMPLES_A_SECOND)


@lru_cache(maxsize=1)
def scales() -> Tensor:
    """Return the root mean squares of Y's columns, in units of noise, over motions of 6 s."""
    times = torch.linspace(0, _OTHER_SECONDS, _QUERIES, dtype=torch.float64)
    found = regressors(*motion(seeding.key(0, "payload", "scales"), range(500), times))
    return (found / NOISE[:, None]).flatten(0, -2).square().mean(0).sqrt()


def reading() -> Tensor:
    """Return c with mass = c'(pi - PARAMETERS), by generalised least squares, ``(7,)``."""
    weights = OF_MASS / (PARAMETERS * _SPREAD).square()
    return weights / (weights @ OF_MASS)


def torque_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the root mean squared error of the torques, in Nm; an odd last row is the mass."""
    torques = len(y) - len(y) % 2
    rest = (prediction[:torques, 0] - y[:torques]).reshape(-1, 2) * NOISE.to(y)
    return rest.square().mean().sqrt()


def _mass_error(prediction: Tensor, y: Tensor) -> Tensor:
    return (prediction[-1, 0] - y[-1]).abs()


def _measured(key: int, clients: Sequence[int], times: Tensor, pi: Tensor, *, noisy: bool) -> Batch:
    """Return torques of one motion in time order, joint 1 and 2 in turn; columns are scaled."""
    matrix = regressors(*motion(key, clients, times)) / NOISE[:, None]
    noise = seeding.normal(seeding.key(key, "noise"), clients, 2 * len(times))
    y = (matrix @ pi[:, None, :, None])[..., 0].flatten(1)
    return Batch((matrix / scales()).flatten(1, 2), y + noise if noisy else y)


def _as_they_are(x: Tensor) -> Tensor:
    return x


def prior() -> Prior:
    """Return mean and covariance of the scaled parameters of an arm; the noise is 1."""
    mean = (PARAMETERS + _HEAVIEST / 2 * OF_MASS) * scales()
    mass = _HEAVIEST**2 / 12 * torch.outer(OF_MASS, OF_MASS)
    spread = (mass + torch.diag((PARAMETERS * _SPREAD).square())) * torch.outer(scales(), scales())
    return Prior(mean, spread, torch.ones((), dtype=torch.float64))


def _oracle(_clients: TrainingClients) -> Adapt:
    known = prior()

    def adapt(support: Batch) -> Predictor:
        mean, _ = known.posterior(support.x.double(), support.y.double())
        return lambda x: (x.double() @ mean)[:, None].to(x.dtype)

    return adapt
