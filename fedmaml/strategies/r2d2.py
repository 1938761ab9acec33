"""R2-D2: a ridge regression on the support set is the head; the body is learned for it.

    adapt          X = [f(x), 1] of the support, Y = one-hot labels,
                   W = (X'X + lam I)^-1 X'Y  =  X'(XX' + lam I)^-1 Y         (no inner loop)
                   predictor: logits(x) = a [f(x), 1] W + b
    client sends   gradient of L_query(logits) in f, log lam, log a and b, through the solution
    server         all of them <- outer(..., mean over the cohort)

f is the network without its head; the head neither exists nor travels. The smaller of the two
systems is solved.
Bertinetto, Henriques, Torr, Vedaldi. Meta-learning with differentiable closed-form solvers. ICLR
2019, eq. 4-6. arXiv:1805.08136.
Deviation: clients are weighted by their number of query examples.
"""

import math
from typing import Annotated

import torch
from annotated_types import Gt

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
    mask_of,
    meta_update,
    network_with_head,
    outer_step,
    partial,
    ridge,
    settings,
    with_ones,
    without_head,
)


@settings
class R2D2(MetaStrategy):
    """Federated R2-D2; equations in the module docstring.

    Attributes:
        outer: Optimiser of body, lam, a and b together.
        lam: Where the strength of the ridge starts, > 0.
        scale: Where a starts, > 0.
    """

    facts = Facts("R2-D2", "closed-form", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    lam: Annotated[float, Gt(0)] = 1.0
    scale: Annotated[float, Gt(0)] = 1.0

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        if problem.classes is None:
            raise UnsupportedProblemError(
                "r2d2 regresses on one-hot labels and needs a problem with classes "
                "(Problem(classes=...)); ridge_head is its sister for regression and binary logits"
            )
        learner, state, memory = network_with_head(self, problem, rng)
        body, _ = body_and_head(problem, state.meta["theta"])
        start = {"log_lam": math.log(self.lam), "log_a": math.log(self.scale), "b": 0.0}
        head = {name: torch.tensor(value, dtype=problem.dtype) for name, value in start.items()}
        meta = {"theta": body, "head": head}
        return Initialised(without_head(learner), ServerState(meta), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        classes = learner.problem.classes or 0
        x = _features(learner, meta, support.x)
        y = (support.y[:, None] == torch.arange(classes, device=x.device)).to(x.dtype)
        if (mask := mask_of(support)) is not None:
            x, y = x * mask[:, None], y * mask[:, None]
        weights = ridge(x, y, meta["head"]["log_lam"].exp())
        return partial(_predict, learner, meta, weights)

    client_update = meta_update
    server_update = outer_step


def _features(learner: Learner, meta: MetaParams, x: Tree) -> Tensor:
    return with_ones(learner.apply(meta["theta"], x).flatten(1))


def _predict(learner: Learner, meta: MetaParams, weights: Tensor, x: Tree) -> Tensor:
    head = meta["head"]
    return head["log_a"].exp() * (_features(learner, meta, x) @ weights) + head["b"]
