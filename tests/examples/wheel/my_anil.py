"""ANIL: the head alone adapts, theta = (body, head) is learned for it (arXiv:1909.09157)."""

from fedmaml.strategies.prelude import (
    Adapts, Facts, GradientSteps, MetaStrategy, OuterOptimizer, body_and_head, field, meta_update,
    network_with_head, outer_step, partial, settings,
)  # fmt: skip


@settings
class MyANIL(MetaStrategy):
    facts = Facts("My ANIL", "initialisation", adapts=Adapts("head"))
    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    build, client_update, server_update = network_with_head, meta_update, outer_step

    def adapt(self, learner, meta, memory, support):
        body, head = body_and_head(learner.problem, meta["theta"])

        def head_loss(head, batch):
            return learner.loss(body | head, batch)

        return partial(learner.apply, body | self.inner.run(head_loss, head, support))
