"""Per-FedAvg (HF): local steps along MAML's gradient, its Hessian products by differences.

    client         w_0 = theta,  w_{s+1} = w_s - local.lr * (v - inner.lr * H v),  where
                   v = grad L_query(w_s - inner.lr * grad L_support(w_s)),
                   H v = [grad L_support(w_s + d v) - grad L_support(w_s - d v)] / 2d
    client sends   theta - w_tau
    server         theta <- outer(theta, mean of theta - w)
    adapt          phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad L_support(phi_t)

Two more gradients for each product, and no second derivative of the network.
Fallah, Mokhtari, Ozdaglar. Personalized Federated Learning with Theoretical Guarantees: A
Model-Agnostic Meta-Learning Approach. NeurIPS 2020, eq. 10-11. arXiv:2002.07948.
Deviations: D and D'' are the support, D' is the query set; d = delta / ||v||, so that the points of
a difference are as far apart whatever the size of v; several inner steps multiply v by
(I - inner.lr H) of one after the other; clients are weighted by their number of query examples.
"""

from typing import Annotated

from annotated_types import Gt

from fedmaml.strategies.prelude import (
    Batch,
    ClientUpdate,
    Facts,
    GradientSteps,
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
    gradient,
    map_params,
    outer_step,
    partial,
    settings,
    squared_norm,
    subtract,
    whole_network,
)


@settings
class PerFedAvgHF(MetaStrategy):
    """Per-FedAvg, Hessian-free; equations in the module docstring.

    Attributes:
        inner: Steps of adaptation (the paper's alpha), in training and in adaptation alike.
        local: Meta-steps of a client in a round (the paper's beta and tau).
        outer: Optimiser of the outer loop; the default replaces theta by the mean of w.
        delta: Distance of the points of a difference from w, > 0.
    """

    facts = Facts("Per-FedAvg (HF)", "personalised", second_derivatives=False, takes_masks=True)

    inner: GradientSteps = field(default_factory=lambda: GradientSteps(steps=1))
    local: GradientSteps = field(default_factory=lambda: GradientSteps(steps=4))
    outer: OuterOptimizer = field(default_factory=lambda: OuterOptimizer(optimizer="sgd", lr=1.0))
    delta: Annotated[float, Gt(0)] = 1e-3

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        return partial(learner.apply, self.inner.run(learner.loss, meta["theta"], support))

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        def query_loss(phi: Params, query: Batch) -> Tensor:
            return learner.query_loss(partial(learner.apply, phi), query)

        def meta_gradient(w: Params, query: Batch) -> Params:
            points = [w, *self.inner.path(learner.loss, w, task.support)]
            v = gradient(lambda phi: query_loss(phi, query), points.pop())
            parts = [*self.inner.parts(task.support)]
            for phi, part in zip(reversed(points), reversed(parts), strict=True):
                product = self._hessian_times(v, learner, phi, part)
                v = map_params(lambda g, h: g - self.inner.lr * h, v, product)
            return v

        theta = meta["theta"]
        w = end_of(self.local.follow(meta_gradient, theta, task.query), theta)
        adapted = self.adapt(learner, {"theta": w}, memory, task.support)
        metrics = {
            "loss_before": query_loss(theta, task.query),
            "loss_after": learner.query_loss(adapted, task.query),
        }
        update = {"theta": subtract(theta, w)}
        return ClientUpdate(update, example_count(task.query), metrics, memory)

    server_update = outer_step

    def _hessian_times(self, v: Params, learner: Learner, phi: Params, part: Batch) -> Params:
        step = self.delta / squared_norm(v).sqrt().clamp_min(1e-30)
        ends = [
            gradient(
                lambda w: learner.loss(w, part),
                map_params(lambda w, d, way=way: w + way * step * d, phi, v),
            )
            for way in (1, -1)
        ]
        return map_params(lambda ahead, behind: (ahead - behind) / (2 * step), *ends)
