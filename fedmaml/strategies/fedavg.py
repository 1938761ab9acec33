"""Federated averaging, fine-tuned where it is evaluated: the baseline that must be beaten.

    client         phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_local(phi_t)
    client sends   theta - phi_k                       L_local: support and query together
    server         theta <- outer(theta, mean of theta - phi), which with "sgd" and lr 1 is the
                   mean of phi; "adam" and "yogi" give FedAdam and FedYogi
    adapt          fine-tuning: gradient steps on the support set, ``adaptation``

McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized Data. AISTATS
2017, Algorithm 1. arXiv:1602.05629; server optimisers: Reddi et al. Adaptive Federated
Optimization. ICLR 2021. arXiv:2003.00295.
With outer.lr below 1 the same mathematics is called Reptile.
Deviation: full-batch local steps, where the paper draws mini-batches.
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
class FedAvg(MetaStrategy):
    """Federated averaging with fine-tuning; equations in the module docstring.

    Attributes:
        inner: Local steps in training.
        outer: Optimiser of the outer loop; the default replaces theta by the mean of phi.
        adaptation: Gradient steps of fine-tuning.
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
