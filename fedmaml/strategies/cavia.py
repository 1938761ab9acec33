"""CAVIA: adapt a few context parameters phi, and share all others.

    network        its first bias b becomes b + U phi: phi is a further input of that layer,
                   U holds its weights
    adapt          phi_0 = 0,  phi_{t+1} = phi_t - inner.lr * grad_phi L_support(theta, U, phi_t)
    client sends   g = grad_{theta, U} L_query(theta, U, phi_k)      second derivatives kept
    server         (theta, U) <- outer((theta, U), mean of g over the cohort)

Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson. Fast Context Adaptation via Meta-Learning. ICML 2019,
Algorithm 1. arXiv:1810.03642.
Deviation: clients are weighted by their number of query examples; U is drawn from N(0, 1/size).
"""

from typing import Annotated

from annotated_types import Gt

from fedmaml.strategies.prelude import (
    Adapts,
    Batch,
    Facts,
    Generator,
    GradientSteps,
    Initialised,
    Kernel,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Problem,
    ServerState,
    Tensor,
    conditioned,
    field,
    inputs_of_first_bias,
    meta_update,
    outer_step,
    partial,
    settings,
    whole_network,
)


@settings
class CAVIA(MetaStrategy):
    """Federated CAVIA; equations in the module docstring. U is the group ``context`` of ``meta``.

    Attributes:
        inner: Steps of phi, in training and in adaptation alike.
        outer: Optimiser of theta and U together.
        size: Number of context parameters.
    """

    facts = Facts(
        "CAVIA",
        "initialisation",
        takes_masks=True,
        kernel=Kernel("exact", elsewhere=("size",)),
        adapts=Adapts("context", learned="context"),
    )

    inner: GradientSteps = field(default_factory=lambda: GradientSteps(lr=1.0, steps=1))
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    size: Annotated[int, Gt(0)] = 5

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, memory = whole_network(self, problem, rng)
        theta = state.meta["theta"]
        context = inputs_of_first_bias("cavia", learner, theta, self.size, rng)
        return Initialised(learner, ServerState({"theta": theta, "context": context}), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        def context_loss(context: Params, batch: Batch) -> Tensor:
            return learner.loss(conditioned(meta, context["phi"]), batch)

        ((_, weights),) = meta["context"].items()
        context = self.inner.run(context_loss, {"phi": weights.new_zeros(self.size)}, support)
        return partial(learner.apply, conditioned(meta, context["phi"]))

    client_update = meta_update
    server_update = outer_step
