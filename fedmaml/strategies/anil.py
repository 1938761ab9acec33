"""ANIL: almost no inner loop; only the head adapts, the body is learned for it.

    adapt          head_0 = head,
                   head_{t+1} = head_t - inner.lr * grad_head L_support(body, head_t)
    client sends   g = grad_{body, head} L_query(body, head_k)       second derivatives kept
    server         theta <- outer(theta, mean of g over the cohort),  theta = (body, head)

Raghu, Raghu, Bengio, Vinyals. Rapid Learning or Feature Reuse? Towards Understanding the
Effectiveness of MAML. ICLR 2020, section 4. arXiv:1909.09157.
Deviation: clients are weighted by their number of query examples.
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
    Tensor,
    body_and_head,
    field,
    meta_update,
    network_with_head,
    outer_step,
    partial,
    settings,
)


@settings
class ANIL(MetaStrategy):
    """Federated ANIL; equations in the module docstring.

    Attributes:
        inner: Head steps, in training and in adaptation alike.
        outer: Optimiser of body and head together.
    """

    facts = Facts(
        "ANIL",
        "initialisation",
        takes_masks=True,
        kernel=Kernel("exact"),
        adapts=Adapts("head"),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    build = network_with_head

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        body, head = body_and_head(learner.problem, meta["theta"])

        def head_loss(head: Params, batch: Batch) -> Tensor:
            return learner.loss(body | head, batch)

        return partial(learner.apply, body | self.inner.run(head_loss, head, support))

    client_update = meta_update
    server_update = outer_step
