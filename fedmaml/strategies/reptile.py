"""Reptile: move the initialisation towards what local training makes of it.

    client         phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_local(phi_t)
    client sends   theta - phi_k                       L_local: support and query together
    server         theta <- outer(theta, mean of theta - phi);  "sgd", lr = epsilon is the paper's
    adapt          the same kind of steps on the support set, ``adaptation``

Nichol, Achiam, Schulman. On First-Order Meta-Learning Algorithms. 2018, Algorithm 2 (batched).
arXiv:1803.02999.
Deviation: full-batch steps, where the paper draws mini-batches; clients are weighted by their
number of examples, where the paper weights tasks equally.
"""

from dataclasses import field
from functools import partial

from torch import Generator

from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import MetaParams, Params
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
class Reptile(MetaStrategy):
    """Federated Reptile; equations in the module docstring.

    Attributes:
        inner: Local steps in training.
        outer: Optimiser of the outer loop; lr is the paper's epsilon.
        adaptation: Gradient steps at a client that adapts.
    """

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=GradientSteps)

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
        return local_training(learner, learner.loss, self.inner, meta, memory, task)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        return outer_step(self.outer, state, update)
