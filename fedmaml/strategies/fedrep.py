"""FedRep: share the body of the network, keep every client's own head at home.

    client         head_{t+1} = head_t - head.lr  * grad_head L_local(body, head_t)   then, from it,
                   body_{t+1} = body_t - inner.lr * grad_body L_local(body_t, head)
    client keeps   head, from round to round (its memory); a new client starts from the common one
    client sends   body_0 - body_k
    server         body <- outer(body, mean of body_0 - body_k)
    adapt          head steps on the support set, ``adaptation``, from the client's own head

Collins, Hassani, Mokhtari, Shakkottai. Exploiting Shared Representations for Personalized
Federated Learning. ICML 2021, Algorithm 1. arXiv:2102.07078.
With inner.batch, head.batch and epochs local training is the paper's; the order of mini-batches is
that of the examples, drawn with the task.
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
    Loss,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Problem,
    ServerState,
    Task,
    Tensor,
    example_count,
    field,
    in_head,
    joined,
    make_learner,
    outer_step,
    partial,
    settings,
    subtract,
    without_head,
)


@settings
class FedRep(MetaStrategy):
    """FedRep; equations in the module docstring. ``theta`` is the body alone.

    Attributes:
        inner: Body steps in training.
        head: Head steps in training.
        outer: Optimiser of the outer loop; the default replaces the body by the mean.
        adaptation: Head steps at a client that adapts.
    """

    facts = Facts(
        "FedRep",
        "representation",
        baseline=True,
        second_derivatives=False,
        adapts_by="adaptation",
        takes_masks=True,
        kernel=Kernel("difference", own_head="head"),
        adapts=Adapts("head"),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    head: GradientSteps = field(default_factory=lambda: GradientSteps(steps=10))
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    adaptation: GradientSteps = field(default_factory=lambda: GradientSteps(steps=10))

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, params = make_learner(problem, rng)
        without_head(learner)  # refuses a network that is all head
        body = {name: value for name, value in params.items() if not in_head(problem, name)}
        head = {name: value for name, value in params.items() if in_head(problem, name)}
        return Initialised(learner, ServerState({"theta": body}), head)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        body = meta["theta"]
        head = self.adaptation.run(_head_loss(learner, body), memory, support)
        return partial(learner.apply, body | head)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        start, local = meta["theta"], joined(task)
        head = self.head.run(_head_loss(learner, start), memory, local)

        def body_loss(body: Params, batch: Batch) -> Tensor:
            return learner.loss(body | head, batch)

        body = self.inner.run(body_loss, start, local)
        metrics = {
            "loss_before": learner.loss(start | memory, local),
            "loss_after": learner.loss(body | head, local),
        }
        return ClientUpdate({"theta": subtract(start, body)}, example_count(local), metrics, head)

    server_update = outer_step


def _head_loss(learner: Learner, body: Params) -> Loss:
    def loss(head: Params, batch: Batch) -> Tensor:
        return learner.loss(body | head, batch)

    return loss
