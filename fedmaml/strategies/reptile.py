"""Reptile: move the initialisation towards the result of local training.

    client         phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_local(phi_t)
    client sends   theta - phi_k                       L_local: support and query together
    server         theta <- outer(theta, mean of theta - phi);  "sgd", lr = epsilon is the paper's
    adapt          the same kind of steps on the support set, ``adaptation``

Nichol, Achiam, Schulman. On First-Order Meta-Learning Algorithms. 2018, Algorithm 2 (batched).
arXiv:1803.02999.
With inner.batch local training is the paper's; the order of mini-batches is that of the examples,
drawn with the task.
Deviation: the defaults take full-batch steps; clients are weighted by their number of examples,
where the paper weights tasks equally.
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
    local_update,
    outer_step,
    partial,
    settings,
    whole_network,
)


@settings
class Reptile(MetaStrategy):
    """Federated Reptile; equations in the module docstring.

    Attributes:
        inner: Local steps in training.
        outer: Optimiser of the outer loop; lr is the paper's epsilon.
        adaptation: Gradient steps at a client that adapts.
    """

    facts = Facts(
        "Reptile",
        "initialisation",
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
        kernel=Kernel("difference"),
        adapts=Adapts(),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=GradientSteps)

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.adaptation.run(learner.loss, meta["theta"], support)
        return partial(learner.apply, fast)

    client_update = local_update
    server_update = outer_step
