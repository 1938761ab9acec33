"""Siamese networks: learn whether two examples are of one class; a new one is like its neighbours.

    adapt          s(x, x_i) = b + sum_j w_j |f_j(x) - f_j(x_i)|                  (no inner loop)
                   predictor: logits_m(x) = mean of s(x, x_i) over the support of class m
    client sends   gradient of L_query = softplus(-s_y) + mean of softplus(s_m) over m != y
                   in theta, w and b: cross-entropy of sigmoid(s) against same or different
    server         (theta, w, b) <- outer(..., mean over the cohort)

f is the network without its head; the head neither exists nor travels. w starts at -1 / features,
b at 1: what is further away than 1 in the mean is different. A class without support
examples is never predicted: its logit lies 20 below the largest. Neither the order of examples nor
the names of classes matter.
Koch, Zemel, Salakhutdinov. Siamese Neural Networks for One-shot Image Recognition. ICML Deep
Learning Workshop 2015, section 3. As an episodic baseline: Vinyals et al. 2016, arXiv:1606.04080.
Deviations: pairs are those of a query with the support, and same and different ones weigh alike,
where the paper draws as many of either; several shots are averaged, where it has one; no warping
of images and no rates of single layers; clients are weighted by their number of query examples.
"""

import torch
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
    absent_last,
    by_comparison,
    compared,
    embedding,
    field,
    linear,
    membership,
    meta_update,
    needs_classes,
    outer_step,
    partial,
    replace,
    settings,
    sizes_of,
)


@settings
class Siamese(MetaStrategy):
    """Federated siamese networks; equations in the module docstring. w, b are ``comparison``.

    Attributes:
        outer: Optimiser of theta, w and b together.
    """

    facts = Facts("Siamese", "metric", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        classes = needs_classes(problem, "siamese", "pairs of one class")
        learner, body, head = embedding(problem, rng)
        width, _ = sizes_of(head)
        learned = {
            "same.weight": torch.full((1, width), -1 / width, dtype=problem.dtype),
            "same.bias": torch.ones(1, dtype=problem.dtype),
        }
        pairs = partial(_loss_of_pairs, classes)
        return compared(replace(learner, problem=replace(problem, loss=pairs)), body, learned)

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        apart = (embedded[:, None] - known.x).abs()
        same = linear(learned, "same", apart)[..., 0]  # (examples, support)
        member = membership(problem, known)
        count = member.sum(0)
        scores = same @ member.to(same.dtype) / count.clamp(min=1)
        return absent_last(scores, count > 0)

    client_update = meta_update
    server_update = outer_step


def _loss_of_pairs(classes: int, logits: Tensor, y: Tensor) -> Tensor:
    own = y[:, None] == torch.arange(classes, device=y.device)
    same = torch.where(own, F.softplus(-logits), 0).sum(-1)
    return same + torch.where(own, 0, F.softplus(logits)).sum(-1) / max(classes - 1, 1)
