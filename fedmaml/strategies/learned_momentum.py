"""Learned momentum: MAML whose inner loop is gradient descent with momentum, both learned.

    adapt          phi_0 = theta,  m_0 = 0,
                   m_{t+1} = beta m_t + grad L_support(phi_t),  phi_{t+1} = phi_t - alpha m_{t+1}
                   alpha, beta: one number for every tensor of parameters
    client sends   gradient of L_query(phi_k) in (theta, alpha, beta), exact
    server         (theta, alpha, beta) <- outer((theta, alpha, beta), mean of all three)

The same steps are phi_{t+1} = phi_t - alpha grad + beta (phi_t - phi_{t-1}): Polyak's heavy ball.
Maclaurin, Duvenaud, Adams. Gradient-based Hyperparameter Optimization through Reversible Learning.
ICML 2015, Algorithm 1. arXiv:1502.03492.
Deviations: plain reverse mode, as inner loops are short; alpha and beta do not change from step to
step and are not bounded. Clients are weighted by their number of query examples.
"""

from typing import Annotated

from annotated_types import Ge, Lt

from fedmaml.strategies.prelude import (
    Batch,
    Facts,
    Generator,
    GradientSteps,
    Initialised,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Problem,
    ServerState,
    end_of,
    field,
    map_params,
    meta_update,
    outer_step,
    partial,
    settings,
    whole_network,
)


@settings
class LearnedMomentum(MetaStrategy):
    """Federated MAML with learned rate and momentum; equations in the module docstring.

    Attributes:
        inner: Steps, in training and in adaptation alike; lr is where alpha starts.
        outer: Optimiser of theta, alpha and beta together.
        momentum: Where beta starts, in [0, 1).
    """

    facts = Facts("Learned momentum", "initialisation", takes_masks=True)

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.5

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, memory = whole_network(self, problem, rng)
        theta = state.meta["theta"]
        alpha = map_params(lambda w: w.new_full((), self.inner.lr), theta)
        beta = map_params(lambda w: w.new_full((), self.momentum), theta)
        meta = {"theta": theta, "alpha": alpha, "beta": beta}
        return Initialised(learner, ServerState(meta), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        def rule(step: int, before: Params, fast: Params, slope: Params) -> Params:
            del step
            return map_params(
                lambda last, w, g, alpha, beta: w - alpha * g + beta * (w - last),
                before, fast, slope, meta["alpha"], meta["beta"],
            )  # fmt: skip

        theta = meta["theta"]
        path = self.inner.path(learner.loss, theta, support, rule=rule)
        return partial(learner.apply, end_of(path, theta))

    client_update = meta_update
    server_update = outer_step
