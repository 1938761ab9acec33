"""Meta-gradient descent: the plain gradient before adaptation; adaptation comes at the end alone.

    client sends   g = grad L_local(theta)             L_local: support and query together
    server         theta <- outer(theta, mean of g);   "sgd": theta <- theta - eta grad L(theta)
    adapt          gradient steps on the support set, ``adaptation``

What remains of MAML without its inner loop: every gain of an inner loop must show against it. On
linear regression it finds the pooled least-squares fit.
McMahan, Moore, Ramage, Hampson, Aguera y Arcas. Communication-Efficient Learning of Deep Networks
from Decentralized Data. AISTATS 2017, section 2 (FedSGD). arXiv:1602.05629.
"""

from fedmaml.strategies.prelude import (
    Adapts,
    ClientUpdate,
    Facts,
    GradientSteps,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Task,
    example_count,
    field,
    fine_tuned,
    gradient_and_value,
    joined,
    outer_step,
    settings,
    whole_network,
)


@settings
class MetaGradientDescent(MetaStrategy):
    """Gradient descent on the unadapted loss; equations in the module docstring.

    Attributes:
        outer: Optimiser of the outer loop.
        adaptation: Gradient steps at a client that adapts.
    """

    facts = Facts(
        "Meta-gradient descent",
        "baseline",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
        adapts=Adapts(),
    )

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    adaptation: GradientSteps = field(default_factory=GradientSteps)

    build = whole_network
    adapt = fine_tuned

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        local = joined(task)
        slope, loss = gradient_and_value(lambda w: learner.loss(w, local), meta["theta"])
        metrics = {"loss_after": loss}  # nothing adapts in training
        return ClientUpdate({"theta": slope}, example_count(local), metrics, memory)

    server_update = outer_step
