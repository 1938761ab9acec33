"""Truncated back-propagation: MAML whose gradient passes through the last steps alone.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_support(phi_t),  t < K
    client sends   g = grad_theta L_query(phi_K), where the gradients of the first K - T steps are
                   constants: second derivatives of the T last steps only, T = ``last``
    server         theta <- outer(theta, mean of g over the cohort)

T = 0 is FOMAML, T >= K is MAML; memory grows with T, not with K.
Shaban, Cheng, Hatch, Boots. Truncated Back-propagation for Bilevel Optimization. AISTATS 2019,
section 3. arXiv:1810.10667.
Deviation: the paper learns hyper-parameters of the steps; here the outer variable is their start,
so the steps before the last T pass the gradient on unchanged. Clients are weighted by their number
of query examples.
"""

from typing import Annotated

from annotated_types import Ge

from fedmaml.strategies.prelude import (
    Batch,
    Facts,
    GradientSteps,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    field,
    meta_update,
    outer_step,
    partial,
    settings,
    whole_network,
)


@settings
class Truncated(MetaStrategy):
    """Federated MAML with a truncated gradient; equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike.
        outer: Optimiser of the outer loop.
        last: Steps that the gradient passes through, counted from the end.
    """

    facts = Facts("Truncated", "initialisation", takes_masks=True)

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    last: Annotated[int, Ge(0)] = 1

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.inner.run(learner.loss, meta["theta"], support, last=self.last)
        return partial(learner.apply, fast)

    client_update = meta_update
    server_update = outer_step
