"""Meta memory: keys and labels in a memory that merges what it knows; a query reads its neighbours.

    adapt          for each example of the support, in order, with q = f(x_i) / ||f(x_i)||:
                   n = nearest key of the memory
                   if label_n = y_i:  key_n <- (key_n + q) / ||key_n + q||       (no inner loop)
                   otherwise (q, y_i) is written to an empty row
                   predictor: p(y | x) = sum_n softmax_n(scale * cos(f(x), key_n)) [label_n = y]
    client sends   g = grad_theta L_query(log p), through the keys
    server         theta <- outer(theta, mean of g over the cohort)

f is the network without its head; the head neither exists nor travels. The memory is empty before
the first example, so it has room for all. With one example of each class this is `matchingnet`;
with several a class that forms one heap has one key, one of two heaps has two. The order of the
examples matters, a little; the names of classes do not.
Kaiser, Nachum, Roy, Bengio. Learning to Remember Rare Events. ICLR 2017, section 2.
arXiv:1703.03129.
Deviations: cross-entropy of the memory's softmax, where the paper has a margin between neighbours;
the memory holds one support, where it lives on and forgets the oldest; clients are weighted by
their number of query examples.
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
    Tensor,
    by_attention,
    by_comparison,
    compared,
    cosines,
    embedding,
    field,
    mask_of,
    membership,
    meta_update,
    needs_classes,
    outer_step,
    settings,
)


@settings
class MetaMemory(MetaStrategy):
    """Federated memory of keys and labels; equations in the module docstring.

    Attributes:
        outer: Optimiser of the outer loop.
        scale: Of the cosines, > 0; 40 in the paper.
    """

    facts = Facts("Meta memory", "model", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    scale: Annotated[float, Gt(0)] = 10.0

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        needs_classes(problem, "meta_memory", "labels of support examples")
        learner, body, _ = embedding(problem, rng)
        return compared(learner, body, {})

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        keys, written = _remembered(known)
        member = membership(problem, known) & written[:, None]
        return by_attention(self.scale * cosines(embedded, keys), member)

    client_update = meta_update
    server_update = outer_step


def _remembered(known: Batch) -> tuple[Tensor, Tensor]:
    """Return keys ``(support, features)`` and which of the rows are written; row i has label i."""
    asked = F.normalize(known.x, dim=-1)
    rows = torch.arange(len(asked), device=asked.device)
    keys, written = asked, torch.zeros_like(rows, dtype=torch.bool)
    mask = mask_of(known)
    for i, q in enumerate(asked):
        nearest = (keys @ q).masked_fill(~written, -torch.inf).argmax()
        hit = (rows == nearest) & written & (known.y == known.y[i])
        if mask is not None:
            hit = hit & mask[i]
        keys = torch.where(hit[:, None], F.normalize(keys + q, dim=-1), keys)
        new = (rows == i) & ~hit.any()
        written = written | (new if mask is None else new & mask[i])
    return keys, written
