"""Meta networks: each support example writes fast weights of the head; a query reads them.

    adapt          G_i = grad_W cross-entropy(W z_i, y_i) = (softmax(W z_i) - y_i) z_i'
                   F_i = Z(G_i), a small network for each entry      fast weights of an example
                   a_i(x) = softmax_i(scale * cos(f(x), f(x_i)))               (no inner loop)
                   predictor: logits(x) = (W + sum_i a_i(x) F_i) z,      z = [f(x), 1]
    client sends   gradient of L_query in f, W and Z
    server         all of them <- outer(..., mean over the cohort)

f is the network without its head; W takes the head's place. The order of the examples does not
matter. G_i needs no pass back through f.
Munkhdalai, Yu. Meta Networks. ICML 2017, section 3, Algorithm 1. arXiv:1703.00837.
Deviations: only the last layer has fast weights, where the paper gives them to f, too; cosines are
scaled (1 in the paper); clients are weighted by their number of query examples.
"""

from typing import Annotated

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
    attention,
    by_comparison,
    compared,
    cosines,
    embedding,
    field,
    linear,
    mask_of,
    meta_update,
    needs_classes,
    new_linear,
    outer_step,
    settings,
    shown,
    sizes_of,
    with_ones,
)


@settings
class MetaNet(MetaStrategy):
    """Federated meta networks; equations in the module docstring.

    Attributes:
        outer: Optimiser of f, W and Z together.
        hidden: Width of Z.
        scale: Of the cosines, > 0.
    """

    facts = Facts("MetaNet", "model", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    hidden: Annotated[int, Gt(0)] = 20
    scale: Annotated[float, Gt(0)] = 10.0

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        classes = needs_classes(problem, "metanet", "gradients of the cross-entropy of its head")
        learner, body, head = embedding(problem, rng)
        width, _ = sizes_of(head)
        learned = new_linear("slow", width, classes, rng, problem.dtype)
        learned |= new_linear("z1", 1, self.hidden, rng, problem.dtype)
        learned |= new_linear("z2", self.hidden, 1, rng, problem.dtype)
        return compared(learner, body, learned)

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        wrong = linear(learned, "slow", known.x).softmax(-1) - shown(problem, known)
        slopes = wrong[:, :, None] * with_ones(known.x)[:, None]  # (support, classes, features + 1)
        fast = linear(learned, "z2", linear(learned, "z1", slopes[..., None]).tanh())[..., 0]
        scores = self.scale * cosines(embedded, known.x)
        # (W + sum_i a_i F_i) z, without the matrix of each query
        each = torch.einsum("scf,qf->qsc", fast, with_ones(embedded))
        read = (attention(scores, mask_of(known))[..., None] * each).sum(1)
        return linear(learned, "slow", embedded) + read

    client_update = meta_update
    server_update = outer_step
