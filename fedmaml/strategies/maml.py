"""MAML: learn an initialisation that a few gradient steps turn into a good model of a task.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_support(phi_t)
    client sends   g = grad_theta L_query(phi_k)       second derivatives kept
                     = prod_t (I - inner.lr * Hessian L_support(phi_t)) grad L_query(phi_k)
    server         theta <- outer(theta, mean of g over the cohort)

Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017,
Algorithm 1. arXiv:1703.03400. Federated: Chen et al. 2018, arXiv:1802.07876 (FedMeta).
Deviation: clients are weighted by their number of query examples; the paper weights tasks equally.
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
class MAML(MetaStrategy):
    """Federated MAML with the exact gradient; equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike.
        outer: Optimiser of the outer loop.
    """

    facts = Facts(
        "MAML", "initialisation", takes_masks=True, kernel=Kernel("exact"), adapts=Adapts()
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.inner.run(learner.loss, meta["theta"], support)
        return partial(learner.apply, fast)

    client_update = meta_update
    server_update = outer_step
