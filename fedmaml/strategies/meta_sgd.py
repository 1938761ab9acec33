"""Meta-SGD: learn the inner step size of every parameter beside the initialisation.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - alpha o grad L_support(phi_t)   o: entrywise
    client sends   (grad_theta, grad_alpha) of L_query(phi_k), both exact; at one step
                   grad_alpha = - grad L_support(theta) o grad L_query(phi)
    server         (theta, alpha) <- outer((theta, alpha), mean of both)

Twice the numbers travel, each way. Learned rates may turn negative, as in the paper.
Li, Zhou, Chen, Li. Meta-SGD: Learning to Learn Quickly for Few-Shot Learning. 2017, eq. 3-4.
arXiv:1707.09835.
Deviation: any number of inner steps, where the paper takes one; alpha starts at inner.lr
everywhere, where the paper draws it; clients are weighted by their number of query examples.
"""

from dataclasses import field
from functools import partial

import torch
from torch import Generator

from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import MetaParams, Params, map_params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, example_count
from fedmaml.strategies.base import (
    ClientUpdate,
    Initialised,
    MetaStrategy,
    ServerState,
    initialise,
    outer_step,
)


@settings
class MetaSGD(MetaStrategy):
    """Federated Meta-SGD; equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike; lr is where alpha starts.
        outer: Optimiser of theta and alpha together.
    """

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, memory = initialise(problem, rng)
        theta = state.meta["theta"]
        alpha = map_params(lambda w: torch.full_like(w, self.inner.lr), theta)
        return Initialised(learner, ServerState({"theta": theta, "alpha": alpha}), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.inner.run(learner.loss, meta["theta"], support, rates=meta["alpha"])
        return partial(learner.apply, fast)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        before = learner.query_loss(partial(learner.apply, meta["theta"]), task.query)
        gradient, after = meta_gradient(self.adapt, learner, meta, memory, task)
        metrics = {"loss_before": before, "loss_after": after}
        return ClientUpdate(gradient, example_count(task.query), metrics, memory)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        return outer_step(self.outer, state, update)
