"""Federated averaging, fine-tuned where it is evaluated: the baseline that must be beaten.

    client         phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_local(phi_t)
    client sends   theta - phi_k                       L_local: support and query together
    server         theta <- outer(theta, mean of theta - phi), which with "sgd" and lr 1 is the
                   mean of phi; "adam" and "yogi" give FedAdam and FedYogi
    adapt          fine-tuning: gradient steps on the support set, ``adaptation``

McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized Data. AISTATS
2017, Algorithm 1. arXiv:1602.05629; server optimisers: Reddi et al. Adaptive Federated
Optimization. ICLR 2021. arXiv:2003.00295.
With outer.lr below 1 the same mathematics is called Reptile.
With inner.batch and inner.epochs local training is the paper's; the order of mini-batches is that
of the examples, drawn with the task.
Deviation: the defaults take full-batch steps.
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
class FedAvg(MetaStrategy):
    """Federated averaging with fine-tuning; equations in the module docstring.

    Attributes:
        inner: Local steps in training.
        outer: Optimiser of the outer loop; the default replaces theta by the mean of phi.
        adaptation: Gradient steps of fine-tuning.
    """

    facts = Facts(
        "FedAvg",
        "baseline",
        baseline=True,
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
