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

from fedmaml.strategies.prelude import (
    Adapts,
    Batch,
    Facts,
    GradientSteps,
    Kernel,
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
class FOMAML(MetaStrategy):
    """Federated first-order MAML; equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike.
        outer: Optimiser of the outer loop.
    """

    facts = Facts(
        "FOMAML",
        "initialisation",
        second_derivatives=False,
        takes_masks=True,
        kernel=Kernel("first-order"),
        adapts=Adapts(),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.inner.run(learner.loss, meta["theta"], support, first_order=True)
        return partial(learner.apply, fast)

    client_update = meta_update
    server_update = outer_step
