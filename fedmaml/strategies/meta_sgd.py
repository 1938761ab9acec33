"""Meta-SGD: learn the inner step size of every parameter beside the initialisation.

    adapt          phi_0 = theta,  phi_{t+1} = phi_t - alpha o grad L_support(phi_t)   o: entrywise
    client sends   (grad_theta, grad_alpha) of L_query(phi_k), both exact; at one step
                   grad_alpha = - grad L_support(theta) o grad L_query(phi)
    server         (theta, alpha) <- outer((theta, alpha), mean of both)

Twice the numbers travel, each way. Learned rates may turn negative, as in the paper.
Li, Zhou, Chen, Li. Meta-SGD: Learning to Learn Quickly for Few-Shot Learning. 2017, eq. 3-4.
arXiv:1707.09835.
Deviation: any number of inner steps, where the paper takes one; alpha starts at inner.lr
everywhere, where the paper draws it; clients are weighted by their number of query examples.
"""

import torch

from fedmaml.strategies.prelude import (
    Adapts,
    Batch,
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
    field,
    map_params,
    meta_update,
    outer_step,
    partial,
    settings,
    whole_network,
)


@settings
class MetaSGD(MetaStrategy):
    """Federated Meta-SGD; equations in the module docstring.

    Attributes:
        inner: Gradient steps, in training and in adaptation alike; lr is where alpha starts.
        outer: Optimiser of theta and alpha together.
    """

    facts = Facts(
        "Meta-SGD",
        "initialisation",
        takes_masks=True,
        kernel=Kernel("exact"),
        adapts=Adapts(learned="alpha"),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, state, memory = whole_network(self, problem, rng)
        theta = state.meta["theta"]
        alpha = map_params(lambda w: torch.full_like(w, self.inner.lr), theta)
        return Initialised(learner, ServerState({"theta": theta, "alpha": alpha}), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        fast = self.inner.run(learner.loss, meta["theta"], support, rates=meta["alpha"])
        return partial(learner.apply, fast)

    client_update = meta_update
    server_update = outer_step
