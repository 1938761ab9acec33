"""pFedMe: every client has a model near w, and w itself moves towards these models.

    client         w_0 = theta,  w_{s+1} = w_s - local.lr * lam * (w_s - phi(w_s)),  where
                   phi(w) is near  argmin L_local(phi) + lam/2 ||phi - w||^2:
                   phi_0 = w,
                   phi_{t+1} = phi_t - inner.lr * (grad L_local(phi_t) + lam (phi_t - w))
    client sends   theta - w_R
    server         theta <- outer(theta, mean of theta - w);  "sgd", lr = beta is the paper's
    adapt          phi(theta) on the support set

lam (w - phi(w)) is the gradient of the Moreau envelope of L_local, if phi(w) is its minimum.
Dinh, Tran, Nguyen. Personalized Federated Learning with Moreau Envelopes. NeurIPS 2020,
Algorithm 1. arXiv:2006.08848.
Deviations: a client adapts from theta wherever it is evaluated, where the paper keeps the models of
the last local round ("PM"); clients are weighted by their number of examples.
"""

from typing import Annotated

from annotated_types import Gt

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
    end_of,
    example_count,
    field,
    joined,
    map_params,
    outer_step,
    partial,
    settings,
    squared_distance,
    subtract,
    whole_network,
)


@settings
class PFedMe(MetaStrategy):
    """pFedMe; equations in the module docstring.

    Attributes:
        inner: Steps towards the client's own model, in training and in adaptation alike.
        local: Steps of w in a round (the paper's eta and R).
        outer: Optimiser of the outer loop; "sgd" with lr beta is the paper's.
        lam: Strength of the pull to w, > 0; inner.lr * lam must stay below 2.
    """

    facts = Facts(
        "pFedMe",
        "personalised",
        baseline=True,
        second_derivatives=False,
        takes_masks=True,
        kernel=Kernel("envelope", local="local"),
        adapts=Adapts(pull="lam"),
    )

    inner: GradientSteps = field(default_factory=GradientSteps)
    local: GradientSteps = field(default_factory=lambda: GradientSteps(steps=20))
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    lam: Annotated[float, Gt(0)] = 15.0

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        return partial(learner.apply, self._near(learner, meta["theta"], support))

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        def envelope_slope(w: Params, part: Batch) -> Params:
            phi = self._near(learner, w, part)
            return map_params(lambda a, b: self.lam * (a - b), w, phi)

        theta, local = meta["theta"], joined(task)
        w = end_of(self.local.follow(envelope_slope, theta, local), theta)
        metrics = {
            "loss_before": learner.loss(theta, local),
            "loss_after": learner.loss(self._near(learner, w, local), local),
        }
        return ClientUpdate({"theta": subtract(theta, w)}, example_count(local), metrics, memory)

    server_update = outer_step

    def _near(self, learner: Learner, w: Params, batch: Batch) -> Params:
        def loss(phi: Params, part: Batch) -> Tensor:
            return learner.loss(phi, part) + self.lam / 2 * squared_distance(phi, w)

        return self.inner.run(loss, w, batch)
