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
    MetaStrategy,
    OuterOptimizer,
    Params,
    Problem,
    ServerState,
    Tensor,
    UnsupportedProblemError,
    by_comparison,
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

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        classes, mask = torch.arange(problem.classes or 0, device=embedded.device), mask_of(known)
        labels = (known.y[:, None] == classes).to(embedded.dtype)  # (examples, classes)
        cosine = F.normalize(embedded, dim=-1) @ F.normalize(known.x, dim=-1).T
        if mask is not None:
            cosine = cosine.masked_fill(~mask, -torch.inf)
        attention = (self.scale * cosine).softmax(-1)  # eq. 2, (queries, examples)
        return (attention @ labels + _SMALLEST).log()  # eq. 1

    client_update = meta_update
    server_update = outer_step
