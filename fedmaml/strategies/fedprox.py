"""FedProx: federated averaging whose local training is held near the global parameters.

    client         phi_0 = theta
                   phi_{t+1} = phi_t - inner.lr * grad h(phi_t),
                   h(phi) = L_local(phi) + mu/2 ||phi - theta||^2
    client sends   theta - phi_k                       L_local: support and query together
    server         theta <- outer(theta, mean of theta - phi)
    adapt          fine-tuning: gradient steps on the support set, ``adaptation``; no proximal term

Li et al. Federated Optimization in Heterogeneous Networks. MLSys 2020, eq. 2. arXiv:1812.06127.
Deviation: a fixed number of full-batch steps, where the paper solves to a chosen inexactness.
"""

from dataclasses import field
from functools import partial
from typing import Annotated

from annotated_types import Ge
from torch import Generator, Tensor

from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import MetaParams, Params, squared_distance
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies.base import (
    ClientUpdate,
    Initialised,
    MetaStrategy,
    ServerState,
    initialise,
    local_training,
    outer_step,
)


@settings
class FedProx(MetaStrategy):
    """FedProx; equations in the module docstring.

    Attributes:
        inner: Local steps in training.
        outer: Optimiser of the outer loop; the default replaces theta by the mean of phi.
        adaptation: Gradient steps of fine-tuning.
        mu: Strength of the proximal term, >= 0; 0 is FedAvg.
    """

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=GradientSteps)
    mu: Annotated[float, Ge(0)] = 0.1

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        return initialise(problem, rng)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.adaptation.run(learner.loss, meta["theta"], support)
        return partial(learner.apply, fast)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        theta = meta["theta"]

        def proximal_loss(phi: Params, batch: Batch) -> Tensor:
            return learner.loss(phi, batch) + self.mu / 2 * squared_distance(phi, theta)

        return local_training(learner, proximal_loss, self.inner, meta, memory, task)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        return outer_step(self.outer, state, update)
