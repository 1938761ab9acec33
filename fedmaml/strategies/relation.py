"""Relation networks: learn the comparison of an example with a class, beside the embedding.

    adapt          c_m = mean of f(x) over the support examples of class m       (no inner loop)
                   predictor: logits_m(x) = v . relu(W [c_m, f(x)] + b) + d
    client sends   gradient of L_query in theta and the relation module (W, b, v, d)
                   L_query: the scenario's, or with loss = "squares"
                   sum_m (sigmoid(logits_m) - [y = m])^2
    server         all of them <- outer(..., mean over the cohort)

f is the network without its head; the head neither exists nor travels. A class without support
examples is never predicted: its logit lies 20 below the largest. Neither the order of examples nor
the names of classes matter.
Sung, Yang, Zhang, Xiang, Torr, Hospedales. Learning to Compare: Relation Network for Few-Shot
Learning. CVPR 2018, eq. 1-2. arXiv:1711.06025.
Deviations: the paper's loss, squares, is a setting: with many classes its gradient all but vanishes
where all scores are low (10 classes of `digits` stay at chance for 150 rounds); two linear layers
compare vectors, as in the paper's zero-shot part, where two convolutions compare images; a class of
several shots is their mean, where the paper takes the sum; clients are weighted by their number of
query examples.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Gt

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
    absent_last,
    by_comparison,
    class_means,
    compared,
    embedding,
    field,
    linear,
    membership,
    meta_update,
    needs_classes,
    new_linear,
    outer_step,
    replace,
    settings,
    sizes_of,
)


@settings
class Relation(MetaStrategy):
    """Federated relation networks; equations in the module docstring.

    Attributes:
        outer: Optimiser of embedding and relation module together.
        hidden: Width of the relation module.
        loss: Of the queries in training, that of the "scenario" or the paper's "squares".
    """

    facts = Facts(
        "Relation network", "metric", second_derivatives=False, adapts_by="", takes_masks=True
    )

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    hidden: Annotated[int, Gt(0)] = 64
    loss: Literal["scenario", "squares"] = "scenario"

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        needs_classes(problem, "relation", "class means")
        learner, body, head = embedding(problem, rng)
        width, _ = sizes_of(head)
        learned = new_linear("relate", 2 * width, self.hidden, rng, problem.dtype)
        learned |= new_linear("score", self.hidden, 1, rng, problem.dtype)
        if self.loss == "squares":
            learner = replace(learner, problem=replace(problem, loss=_squares))
        return compared(learner, body, learned)

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        means = class_means(problem, known)
        pairs = len(embedded), len(means), -1
        both = [means.expand(pairs), embedded[:, None].expand(pairs)]
        related = linear(learned, "relate", torch.cat(both, -1)).relu()
        scores = linear(learned, "score", related)[..., 0]  # eq. 1
        return absent_last(scores, membership(problem, known).any(0))

    client_update = meta_update
    server_update = outer_step


def _squares(logits: Tensor, y: Tensor) -> Tensor:
    own = y[:, None] == torch.arange(logits.shape[-1], device=y.device)
    return (logits.sigmoid() - own.to(logits.dtype)).square().sum(-1)  # eq. 2
