"""BOIL: the body alone adapts, under a head that is the same before and after.

    adapt          body_0 = body,
                   body_{t+1} = body_t - inner.lr * grad_body L_support(body_t, head)
    client sends   g = grad_{body, head} L_query(body_k, head)       second derivatives kept
    server         theta <- outer(theta, mean of g over the cohort),  theta = (body, head)

The opposite of ANIL: representations must change with the task, and do not only become reusable.
Oh, Yoo, Kim, Yun. BOIL: Towards Representation Change for Few-shot Learning. ICLR 2021, section 3.
arXiv:2008.08882.
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
class BOIL(MetaStrategy):
    """Federated BOIL; equations in the module docstring.

    Attributes:
        inner: Body steps, in training and in adaptation alike.
        outer: Optimiser of body and head together.
    """

    facts = Facts(
        "BOIL", "initialisation", takes_masks=True, kernel=Kernel("exact"), adapts=Adapts("body")
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    build = network_with_head

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        body, head = body_and_head(learner.problem, meta["theta"])

        def body_loss(body: Params, batch: Batch) -> Tensor:
            return learner.loss(body | head, batch)

        return partial(learner.apply, self.inner.run(body_loss, body, support) | head)

    client_update = meta_update
    server_update = outer_step
