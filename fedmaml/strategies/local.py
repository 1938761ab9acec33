"""Local training: no federation; each client learns from its own support only.

    adapt          phi_0 = theta_0 (the common random start),
                   phi_{t+1} = phi_t - inner.lr * grad L_support(phi_t)
    client sends   nothing (an update of zero); a run has no rounds unless they are set
    server         theta stays theta_0

The reference point of every comparison: federation that does not beat it is not worth its cost.
Source: the "local" baseline of every personalisation study, e.g. Collins et al. ICML 2021,
section 5. arXiv:2102.07078.
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
    Params,
    Predictor,
    ServerState,
    Task,
    example_count,
    field,
    partial,
    replace,
    settings,
    whole_network,
    zeros_like,
)


@settings
class Local(MetaStrategy):
    """Local training only; equations in the module docstring.

    Attributes:
        inner: Gradient steps of local training.
    """

    facts = Facts(
        "Local",
        "baseline",
        baseline=True,
        has_rounds=False,
        second_derivatives=False,
        takes_masks=True,
        kernel=Kernel("nothing"),
        adapts=Adapts(),
    )

    inner: GradientSteps = field(default_factory=lambda: GradientSteps(lr=0.1, steps=100))

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.inner.run(learner.loss, meta["theta"], support)
        return partial(learner.apply, fast)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        predictors = (
            partial(learner.apply, meta["theta"]),
            self.adapt(learner, meta, memory, task.support),
        )
        before, after = (learner.query_loss(predictor, task.query) for predictor in predictors)
        metrics = {"loss_before": before, "loss_after": after}
        return ClientUpdate(zeros_like(meta), example_count(task.query), metrics, memory)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        return replace(state, finished_rounds=state.finished_rounds + 1)
