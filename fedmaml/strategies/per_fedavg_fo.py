"""Per-FedAvg (FO): local steps along the first-order meta-gradient, averaged as in FedAvg.

    client         w_0 = theta,  w_{s+1} = w_s - local.lr * grad L_query(phi(w_s)),  where
                   phi(w): phi_0 = w,  phi_{t+1} = phi_t - inner.lr * grad L_support(phi_t)
    client sends   theta - w_tau                       first order: phi(w) counts as w + constant
    server         theta <- outer(theta, mean of theta - w)
    adapt          phi(theta)

Fallah, Mokhtari, Ozdaglar. Personalized Federated Learning with Theoretical Guarantees: A
Model-Agnostic Meta-Learning Approach. NeurIPS 2020, Algorithm 1, first-order gradient.
arXiv:2002.07948.
Deviations: D is the support and D' the query set, whole or, with local.batch, in parts; any number
of inner steps, where the paper takes one; clients are weighted by their number of query examples.
"""

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
    example_count,
    field,
    outer_step,
    partial,
    settings,
    subtract,
    whole_network,
)


@settings
class PerFedAvgFO(MetaStrategy):
    """Per-FedAvg with the first-order gradient; equations in the module docstring.

    Attributes:
        inner: Steps of adaptation (the paper's alpha), in training and in adaptation alike.
        local: Meta-steps of a client in a round (the paper's beta and tau).
        outer: Optimiser of the outer loop; the default replaces theta by the mean of w.
    """

    facts = Facts(
        "Per-FedAvg (FO)",
        "personalised",
        second_derivatives=False,
        takes_masks=True,
        kernel=Kernel("meta-difference", local="local"),
        adapts=Adapts(),
    )

    inner: GradientSteps = field(default_factory=lambda: GradientSteps(steps=1))
    local: GradientSteps = field(default_factory=lambda: GradientSteps(steps=4))
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.inner.run(learner.loss, meta["theta"], support, first_order=True)
        return partial(learner.apply, fast)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        def adapted_loss(w: Params, query: Batch) -> Tensor:
            predictor = self.adapt(learner, {"theta": w}, memory, task.support)
            return learner.query_loss(predictor, query)

        theta = meta["theta"]
        w = self.local.run(adapted_loss, theta, task.query)
        metrics = {
            "loss_before": learner.query_loss(partial(learner.apply, theta), task.query),
            "loss_after": adapted_loss(w, task.query),
        }
        update = {"theta": subtract(theta, w)}
        return ClientUpdate(update, example_count(task.query), metrics, memory)

    server_update = outer_step
