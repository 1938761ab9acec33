"""MAML: learn an initialisation that a few gradient steps turn into a good model of a task.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_support(phi_t)
    client sends   g = grad_theta L_query(phi_k)       second derivatives kept
                     = prod_t (I - inner.lr * Hessian L_support(phi_t)) grad L_query(phi_k)
    server         theta <- outer(theta, mean of g over the cohort)

Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017,
Algorithm 1. arXiv:1703.03400. Federated: Chen et al. 2018, arXiv:1802.07876 (FedMeta).
Deviation: clients are weighted by their number of query examples; the paper weights tasks equally.
"""

from dataclasses import field
from functools import partial

from torch import Generator

from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import MetaParams, Params
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
class MAML(MetaStrategy):
    """Federated MAML with the exact gradient; equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike.
        outer: Optimiser of the outer loop.
    """

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        return initialise(problem, rng)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.inner.run(learner.loss, meta["theta"], support)
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
