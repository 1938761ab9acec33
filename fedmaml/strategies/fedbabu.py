"""FedBABU: train the body together under a head that nobody trains; the head waits for its client.

    client         body_{t+1} = body_t - inner.lr * grad_body L_local(body_t, head)
    client sends   body_0 - body_k
    server         body <- outer(body, mean of body_0 - body_k)
    adapt          gradient steps of body and head on the support set, ``adaptation``

The head is the common random start: every client makes it itself from the seed, and it never
travels.
Oh, Kim, Yun. FedBABU: Toward Enhanced Representation for Federated Image Classification. ICLR 2022,
Algorithm 1. arXiv:2106.06042.
Deviation: the defaults take full-batch steps.
"""

from fedmaml.strategies.prelude import (
    Adapts,
    Batch,
    ClientUpdate,
    Facts,
    Generator,
    GradientSteps,
    Initialised,
    Kernel,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Problem,
    ServerState,
    Task,
    Tensor,
    body_and_head,
    example_count,
    field,
    joined,
    network_with_head,
    outer_step,
    partial,
    settings,
    subtract,
)


@settings
class FedBABU(MetaStrategy):
    """FedBABU; equations in the module docstring. ``theta`` is the body alone.

    Attributes:
        inner: Body steps in training.
        outer: Optimiser of the outer loop; the default replaces the body by the mean.
        adaptation: Steps of the whole network at a client that adapts.
    """

    facts = Facts(
        "FedBABU",
        "representation",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
        kernel=Kernel("difference", frozen_head=True),
        adapts=Adapts(),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=GradientSteps)

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, _ = network_with_head(self, problem, rng)
        body, head = body_and_head(problem, state.meta["theta"])
        return Initialised(learner, ServerState({"theta": body}), head)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.adaptation.run(learner.loss, meta["theta"] | memory, support)
        return partial(learner.apply, fast)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        def body_loss(body: Params, batch: Batch) -> Tensor:
            return learner.loss(body | memory, batch)

        start, local = meta["theta"], joined(task)
        body = self.inner.run(body_loss, start, local)
        metrics = {"loss_before": body_loss(start, local), "loss_after": body_loss(body, local)}
        return ClientUpdate({"theta": subtract(start, body)}, example_count(local), metrics, memory)

    server_update = outer_step
