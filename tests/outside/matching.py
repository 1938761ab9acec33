"""Matching networks: predict by attention over the support examples.

    adapt          a_i(x) = softmax_i(scale * cos(f(x), f(x_i)))      (no inner loop)
                   predictor: p(y | x) = sum_i a_i(x) [y_i = y],  logits = log(p + 1e-6)
    client sends   g = grad_theta L_query(logits)                     through query and support
    server         theta <- outer(theta, mean of g over the cohort)

f is the network without its head; the head neither exists nor travels.
Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra. Matching Networks for One Shot Learning.
NIPS 2016, eq. 1-2. arXiv:1606.04080.
Deviation: no full context embeddings; cosines are scaled (the paper has scale 1, under which
attention can barely tell examples apart, as e^1 / e^-1 = 7.4); clients are weighted by their number
of query examples.
"""

from typing import Annotated

import torch
from annotated_types import Gt
from torch.nn import functional as F

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
    UnsupportedProblemError,
    field,
    in_head,
    mask_of,
    meta_update,
    outer_step,
    settings,
    whole_network,
    without_head,
)

_SMALLEST = 1e-6  # a class without support examples has a finite loss


@settings
class Matching(MetaStrategy):
    """Federated matching networks; equations in the module docstring.

    Attributes:
        outer: Optimiser of the outer loop.
        scale: Of the cosines, > 0.
    """

    facts = Facts(
        "Matching networks", "metric", second_derivatives=False, adapts_by="", takes_masks=True
    )

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    scale: Annotated[float, Gt(0)] = 10.0

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        if problem.classes is None:
            raise UnsupportedProblemError(
                "matching adapts by labels of support examples and needs a problem with classes "
                "(Problem(classes=...)); this one is a regression or has one binary logit"
            )
        learner, state, memory = whole_network(self, problem, rng)
        theta = {
            name: value for name, value in state.meta["theta"].items() if not in_head(problem, name)
        }
        return Initialised(without_head(learner), ServerState({"theta": theta}), memory)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        def embedded(x: Tensor) -> Tensor:
            return F.normalize(learner.apply(meta["theta"], x).flatten(1), dim=-1)

        known, mask = embedded(support.x), mask_of(support)
        classes = torch.arange(learner.problem.classes or 0, device=support.y.device)
        labels = (support.y[:, None] == classes).to(known.dtype)  # (examples, classes)

        def predict(x: Tensor) -> Tensor:
            cosine = embedded(x) @ known.T  # (queries, examples)
            if mask is not None:
                cosine = cosine.masked_fill(~mask, -torch.inf)
            attention = (self.scale * cosine).softmax(-1)  # eq. 2
            return (attention @ labels + _SMALLEST).log()  # eq. 1

        return predict

    client_update = meta_update
    server_update = outer_step
