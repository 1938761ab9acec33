"""FedAvg whose server is Adam, fine-tuned where it is evaluated: the strongest baseline.

    client         phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_local(phi_t)
    client sends   theta - phi_k                       L_local: support and query together
    server         theta <- Adam(theta, mean of theta - phi)
    adapt          fine-tuning: gradient steps on the support set, ``adaptation``

Reddi et al. Adaptive Federated Optimization. ICLR 2021, Algorithm 2 (FedAdam). arXiv:2003.00295.
MAML with Adam against FedAvg with plain averaging compares two things at once; this baseline has
MAML's outer optimiser and no meta-learning.
Deviations: the defaults take full-batch steps, where the paper draws mini-batches; Adam has its
usual epsilon of 1e-8 and bias correction, where the paper has 1e-3 and none.
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
class FedAdam(MetaStrategy):
    """FedAvg with server Adam and fine-tuning; equations in the module docstring.

    Attributes:
        inner: Local steps in training.
        outer: Optimiser of the outer loop; "sgd" makes it FedAvg, "yogi" FedYogi.
        adaptation: Gradient steps of fine-tuning.
    """

    facts = Facts(
        "FedAdam",
        "baseline",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
        kernel=Kernel("difference"),
        adapts=Adapts(),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="adam", lr=0.01))
    adaptation: GradientSteps = field(default_factory=GradientSteps)

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.adaptation.run(learner.loss, meta["theta"], support)
        return partial(learner.apply, fast)

    client_update = local_update
    server_update = outer_step
