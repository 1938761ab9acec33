"""Ridge head: correct a pooled head in closed form, on the residuals that it leaves at a client.

    adapt          z = [f(x), 1], or [x, 1] with on = "inputs";  o(x) = output of the whole network
                   W = argmin sum_support loss(o(x) + z W, y) + lam/2 ||W||^2
                   squared losses, as 1/2 (prediction - y)^2: one solve,
                   W = (Z'Z + lam I)^-1 Z'(y - o);
                   binary logits: ``newton`` steps of
                   W <- W - (Z'SZ + lam I)^-1 (Z'(p - y) + lam W),
                   p = sigmoid(o + z W),  S = diag(p (1 - p))
                   predictor: o(x) + z W
    client sends   gradient of L_query in theta and log lam, through the solution
    server         (theta, log lam) <- outer(..., mean over the cohort)

So a client's head is the pooled one where it has few examples, and its own where it has many. With
pooled = false, o is 0: the head is solved alone, as R2-D2 does for classes.
Bertinetto, Henriques, Torr, Vedaldi. Meta-learning with differentiable closed-form solvers. ICLR
2019, section 3 (ridge and logistic). arXiv:1805.08136.
Deviations: the residual of a pooled head; clients are weighted by their number of query examples.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Gt

from fedmaml.core.losses import binary_cross_entropy
from fedmaml.strategies.prelude import (
    Batch,
    Facts,
    Generator,
    Initialised,
    Learner,
    MetaParams,
    MetaStrategy,
    OuterOptimizer,
    Params,
    Predictor,
    Problem,
    ServerState,
    Tensor,
    Tree,
    UnsupportedProblemError,
    body_and_head,
    field,
    flat_inputs,
    head_matrix,
    mask_of,
    meta_update,
    outer_step,
    partial,
    ridge,
    settings,
    whole_network,
    with_ones,
    without_head,
)


@settings
class RidgeHead(MetaStrategy):
    """Federated closed-form head; equations in the module docstring.

    Attributes:
        outer: Optimiser of theta and log lam together.
        lam: Where the strength of the ridge starts, > 0.
        on: What W multiplies: the output of the "body" or the "inputs".
        pooled: Whether W corrects the network's own head.
        newton: Newton steps of a logistic head; a ridge needs one.
    """

    facts = Facts(
        "Ridge head", "closed-form", second_derivatives=False, adapts_by="", takes_masks=True
    )

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    lam: Annotated[float, Gt(0)] = 1.0
    on: Literal["body", "inputs"] = "body"
    pooled: bool = True
    newton: Annotated[int, Gt(0)] = 5

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        if problem.classes is not None:
            raise UnsupportedProblemError(
                "ridge_head solves regressions and binary logits, and this problem has "
                f"{problem.classes} classes; r2d2 is its sister for classes"
            )
        learner, state, memory = whole_network(self, problem, rng)
        if self.on == "body":
            learner = without_head(learner)
        log_lam = torch.tensor(math.log(self.lam), dtype=problem.dtype)
        meta = {**state.meta, "ridge": {"log_lam": log_lam}}
        return Initialised(learner, ServerState(meta), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        theta, lam = meta["theta"], meta["ridge"]["log_lam"].exp()
        z, offset = self._parts(learner, theta, support.x)
        y = support.y.reshape(offset.shape).to(offset.dtype)
        if (mask := mask_of(support)) is not None:
            z = z * mask[:, None]  # rows of zeros add nothing
        if learner.problem.loss is binary_cross_entropy:
            weights = self._logistic(z, offset, y, lam)
        else:
            weights = ridge(z, y - offset, lam)
        return partial(self._predict, learner, theta, weights)

    client_update = meta_update
    server_update = outer_step

    def _parts(self, learner: Learner, theta: Params, x: Tree) -> tuple[Tensor, Tensor]:
        """Return z and o of the module docstring."""
        if self.on == "body":
            body, head = body_and_head(learner.problem, theta)
            z = with_ones(learner.apply(body, x).flatten(1))
            output = z @ head_matrix(head)
        else:
            z, output = with_ones(flat_inputs(x)), learner.apply(theta, x)
        return z, output if self.pooled else torch.zeros_like(output)

    def _predict(self, learner: Learner, theta: Params, weights: Tensor, x: Tree) -> Tensor:
        z, offset = self._parts(learner, theta, x)
        return offset + z @ weights

    def _logistic(self, z: Tensor, offset: Tensor, y: Tensor, lam: Tensor) -> Tensor:
        identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        weights = z.new_zeros(z.shape[1], 1)
        for _ in range(self.newton):
            p = torch.sigmoid(offset + z @ weights)
            curvature = z.T @ (p * (1 - p) * z) + lam * identity
            slope = z.T @ (p - y) + lam * weights
            weights = weights - torch.linalg.solve(curvature, slope)
        return weights
