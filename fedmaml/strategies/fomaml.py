"""First-order MAML: MAML with the second derivatives dropped.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_support(phi_t)
    client sends   g = grad L_query(phi_k)      the gradient at the fast weights, as if phi = theta
    server         theta <- outer(theta, mean of g over the cohort)

Finn, Abbeel, Levine. Model-Agnostic Meta-Learning. ICML 2017, section 5.2. arXiv:1703.03400;
Nichol, Achiam, Schulman. On First-Order Meta-Learning Algorithms. 2018. arXiv:1803.02999.
Where inner.lr times the curvature is large it is far from MAML and converges to another point; past
1 its gradient changes sign in that direction, and the unadapted model drifts away: lower inner.lr.
Deviation: clients are weighted by their number of query examples; the papers weight tasks equally.
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
class FOMAML(MetaStrategy):
    """Federated first-order MAML; equations in the module docstring.

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
        fast = self.inner.run(learner.loss, meta["theta"], support, first_order=True)
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
