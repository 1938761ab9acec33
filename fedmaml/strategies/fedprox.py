"""FedProx: federated averaging with a proximal term that keeps local training near theta.

    client         phi_0 = theta
                   phi_{t+1} = phi_t - inner.lr * grad h(phi_t),
                   h(phi) = L_local(phi) + mu/2 ||phi - theta||^2
    client sends   theta - phi_k                       L_local: support and query together
    server         theta <- outer(theta, mean of theta - phi)
    adapt          fine-tuning: gradient steps on the support set, ``adaptation``; no proximal term

Li et al. Federated Optimization in Heterogeneous Networks. MLSys 2020, eq. 2. arXiv:1812.06127.
Deviation: a fixed number of full-batch steps, where the paper solves to a chosen inexactness.
"""

from typing import Annotated

from annotated_types import Ge

from fedmaml.strategies.prelude import (
    Adapts,
    Batch,
    ClientUpdate,
    Facts,
    GradientSteps,
    Kernel,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Task,
    Tensor,
    field,
    outer_step,
    partial,
    settings,
    squared_distance,
    train_locally,
    whole_network,
)


@settings
class FedProx(MetaStrategy):
    """FedProx; equations in the module docstring.

    Attributes:
        inner: Local steps in training.
        outer: Optimiser of the outer loop; the default replaces theta by the mean of phi.
        adaptation: Gradient steps of fine-tuning.
        mu: Strength of the proximal term, >= 0; 0 is FedAvg.
    """

    facts = Facts(
        "FedProx",
        "baseline",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
        kernel=Kernel("difference", proximal="mu"),
        adapts=Adapts(),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=GradientSteps)
    mu: Annotated[float, Ge(0)] = 0.1

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.adaptation.run(learner.loss, meta["theta"], support)
        return partial(learner.apply, fast)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        theta = meta["theta"]

        def proximal_loss(phi: Params, batch: Batch) -> Tensor:
            return learner.loss(phi, batch) + self.mu / 2 * squared_distance(phi, theta)

        return train_locally(learner, proximal_loss, self.inner, meta, memory, task)

    server_update = outer_step
