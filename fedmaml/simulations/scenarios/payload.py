"""Payload: what does a robot arm carry? Half a second of motion, and its mechanics are linear.

Torques of the joints of a planar arm are Y(q, q', q'') pi (`systems.arm`) and noise. A client is an
arm with a payload (`systems.payloads`); joints move along three sinusoids each. The support are the
first ``seconds``, the query is another motion of 6 s, without noise where it is evaluated. An
example is one torque, in units of its noise. `payload_network` knows no mechanics.

The last query row of an evaluated arm reads the mass from pi, by generalised least squares: "mass"
is the error there, "torque" that of all others. What no gradient trains is better here: the
posterior under the arms' own mean and covariance, from sums that each arm sends once.

Gautier, Khalil. Exciting Trajectories for the Identification of Base Inertial Parameters of
Robots. IJRR 11(4), 1992. Made-up arms.
"""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import payloads
from fedmaml.simulations.systems.arm import PARAMETERS

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
            Metric("mass", "kg", "lower", math.inf, payloads.read_mass_error, least=0),
        )
        inputs = len(PARAMETERS)
        return Problem(
            lambda: LinearModel(inputs, 1, bias=False), half_squared_error, metrics, ordered=True
        )

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2 * (payloads.samples(self.seconds) + payloads.QUERIES)

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        mass, support, query = payloads.support_and_query(
            self.seed, split, clients, round, self.seconds
        )
        if split != "train":
            weights = payloads.reading()
            query = Batch(
                torch.cat([query.x, (weights / payloads.scales()).expand(len(clients), 1, -1)], 1),
                torch.cat([query.y, mass[:, None] + weights @ PARAMETERS], 1),
            )
        return [TaskGroup(tuple(clients), Task(support, query))]

    def references(self) -> tuple[Reference, ...]:
        return payloads.of_mechanics()


def torque_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Return the root mean squared error of the torques, in Nm; an odd last row is the mass."""
    torques = len(y) - len(y) % 2
    rest = (prediction[:torques, 0] - y[:torques]).reshape(-1, 2) * payloads.NOISE.to(y)
    return rest.square().mean().sqrt()
