"""iMAML: MAML's gradient from the end of the inner loop alone, not through its steps.

    adapt          F(phi) = L_support(phi) + lam/2 ||phi - theta||^2,
                   phi_0 = theta,  phi_{t+1} = phi_t - inner.lr * grad F(phi_t)
    client sends   g = (I + H / lam)^-1 grad L_query(phi_k),  H = Hessian of L_support at phi_k
                   by conjugate gradients, which take products with H and never H itself
    server         theta <- outer(theta, mean of g over the cohort)

Where phi_k has converged, g is the gradient of L_query(phi(theta)) in theta.
Rajeswaran, Finn, Kakade, Levine. Meta-Learning with Implicit Gradients. NeurIPS 2019, Algorithm 2
and eq. 6-7. arXiv:1909.04630.
Deviation: clients are weighted by their number of query examples; the inner loop takes a given
number of gradient steps, not as many as a given accuracy needs.
"""

from typing import Annotated

import torch
from annotated_types import Gt

from fedmaml.strategies.prelude import (
    Batch,
    Callable,
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
    example_count,
    field,
    gradient,
    gradient_and_value,
    map_params,
    outer_step,
    partial,
    settings,
    squared_distance,
    squared_norm,
    whole_network,
)


@settings
class IMAML(MetaStrategy):
    """Federated iMAML; equations in the module docstring.

    Attributes:
        inner: Steps towards the minimum, in training and in adaptation alike.
        outer: Optimiser of the outer loop.
        lam: Strength of the pull to theta, > 0.
        conjugate: Steps of conjugate gradients, each one product with the Hessian.
    """

    facts = Facts("iMAML", "initialisation", takes_masks=True)

    inner: GradientSteps = field(default_factory=lambda: GradientSteps(steps=10))
    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    lam: Annotated[float, Gt(0)] = 2.0
    conjugate: Annotated[int, Gt(0)] = 5

    build = whole_network

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        return partial(learner.apply, self._near(learner, meta["theta"], support))

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        theta = meta["theta"]

        def query_loss(phi: Params) -> Tensor:
            return learner.query_loss(partial(learner.apply, phi), task.query)

        def support_slope(phi: Params) -> Params:
            return gradient(lambda w: learner.loss(w, task.support), phi)

        phi = self._near(learner, theta, task.support)
        slope, after = gradient_and_value(query_loss, phi)

        def matrix(direction: Params) -> Params:  # (I + H / lam) direction
            product = gradient(lambda w: inner_product(support_slope(w), direction), phi)
            return map_params(lambda v, h: v + h / self.lam, direction, product)

        solved = conjugate_gradients(matrix, slope, self.conjugate)
        metrics = {"loss_before": query_loss(theta), "loss_after": after}
        return ClientUpdate({"theta": solved}, example_count(task.query), metrics, memory)

    server_update = outer_step

    def _near(self, learner: Learner, theta: Params, support: Batch) -> Params:
        def loss(phi: Params, batch: Batch) -> Tensor:
            return learner.loss(phi, batch) + self.lam / 2 * squared_distance(phi, theta)

        return self.inner.run(loss, theta, support)


def conjugate_gradients(matrix: Callable[[Params], Params], right: Params, steps: int) -> Params:
    """Return x, about matrix^-1 right, after some steps from 0 (Hestenes, Stiefel 1952)."""
    x = map_params(torch.zeros_like, right)
    residual = direction = right
    squared = squared_norm(residual)
    for _ in range(steps):
        product = matrix(direction)
        far = _ratio(squared, inner_product(direction, product))
        x = map_params(lambda a, b, far=far: a + far * b, x, direction)
        residual = map_params(lambda a, b, far=far: a - far * b, residual, product)
        before, squared = squared, squared_norm(residual)
        turn = _ratio(squared, before)
        direction = map_params(lambda a, b, turn=turn: a + turn * b, residual, direction)
    return x


def inner_product(left: Params, right: Params) -> Tensor:
    """Return the sum of products over all entries, a scalar."""
    return torch.stack([(left[name] * right[name]).sum() for name in left]).sum()


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below, and 0 where there is nothing left to solve."""
    return torch.where(below == 0, 0, above / torch.where(below == 0, 1, below))
