"""My strategy: MAML, to be changed into what you have in mind.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_support(phi_t)
    client sends   g = grad_theta L_query(phi_k)                     second derivatives kept
    server         theta <- outer(theta, mean of g over the cohort)

Equations and source belong here. Four verbs make a strategy: build, adapt, client_update and
server_update; those that methods share are in `fedmaml.strategies.parts`.
"""

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
class MyStrategy(MetaStrategy):
    """My strategy; equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike.
        outer: Optimiser of the outer loop.
    """

    facts = Facts("My strategy", "initialisation", takes_masks=True)

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    build = whole_network  # theta is the whole network, clients keep nothing

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        """Return the predictor of a client with this support; all that is differentiable counts."""
        del memory
        fast = self.inner.run(learner.loss, meta["theta"], support)
        return partial(learner.apply, fast)

    client_update = meta_update  # the gradient of the query loss through `adapt`
    server_update = outer_step
