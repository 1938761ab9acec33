"""Matching networks: predict by attention over the support examples.

    adapt          predictor: p(y | x) = sum_i a_i(x) [y_i = y],                 (no inner loop)
                   a_i(x) = softmax_i(scale * cos(f(x, S), g(x_i, S)))
                   without full context f and g are the embedding e alone; with it
                   g(x_i, S) = e(x_i) + forward_i + backward_i     of an LSTM over the support
                   f(x, S) = h_K:  r_k = sum_i softmax_i(h_k . g_i) g_i,
                                   h_{k+1} = e(x) + LSTM(e(x), [h_k, r_k])
    client sends   g = grad L_query(log p) in theta and the three LSTMs
    server         all of them <- outer(..., mean over the cohort)

e is the network without its head; the head neither exists nor travels. Without full context the
order of the examples does not matter; with it it does. A class without support examples is never
predicted: p < e^-20.
Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra. Matching Networks for One Shot Learning.
NeurIPS 2016, eq. 1-2, appendix A. arXiv:1606.04080.
Deviations: cosines are scaled (at the paper's scale of 1 attention can barely tell examples apart:
e^1 / e^-1 = 7.4); clients are weighted by their number of query examples.
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
    by_attention,
    by_comparison,
    compared,
    cosines,
    embedding,
    field,
    lstm,
    mask_of,
    membership,
    meta_update,
    needs_classes,
    new_lstm,
    outer_step,
    settings,
    sizes_of,
)


@settings
class MatchingNet(MetaStrategy):
    """Federated matching networks; equations in the module docstring.

    Attributes:
        outer: Optimiser of embedding and LSTMs together.
        scale: Of the cosines, > 0.
        full_context: Whether embeddings depend on the whole support.
        reads: K, the steps in which an input reads the support, with full context.
    """

    facts = Facts(
        "Matching networks", "metric", second_derivatives=False, adapts_by="", takes_masks=True
    )

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    scale: Annotated[float, Gt(0)] = 10.0
    full_context: bool = False
    reads: Annotated[int, Gt(0)] = 3

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        needs_classes(problem, "matchingnet", "labels of support examples")
        learner, body, head = embedding(problem, rng)
        learned: Params = {}
        if self.full_context:
            width, _ = sizes_of(head)
            for name, inputs in (("forward", 2), ("backward", 2), ("read", 3)):
                learned |= new_lstm(name, inputs * width, width, rng, problem.dtype)
        return compared(learner, body, learned)

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        support = known.x
        if self.full_context:
            support = _in_context(learned, known)
            embedded = self._having_read(learned, support, embedded, mask_of(known))
        scores = self.scale * cosines(embedded, support)
        return by_attention(scores, membership(problem, known))

    def _having_read(
        self, learned: Params, support: Tensor, embedded: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return f(x, S), ``(examples, features)``."""
        h, cell = embedded, torch.zeros_like(embedded)
        for _ in range(self.reads):
            read = attention(h @ support.T, mask) @ support
            output, cell = lstm(learned, "read", torch.cat([embedded, h, read], -1), cell)
            h = embedded + output
        return h

    client_update = meta_update
    server_update = outer_step


def _in_context(learned: Params, known: Batch) -> Tensor:
    """Return g(x_i, S), ``(support, features)``; padding rows change no state."""
    mask, count = mask_of(known), len(known.x)
    total = known.x
    for name, order in (("forward", range(count)), ("backward", range(count - 1, -1, -1))):
        output = cell = torch.zeros_like(known.x[0])
        outputs: list[Tensor] = [output] * count
        for i in order:
            after, cell_after = lstm(learned, name, torch.cat([known.x[i], output]), cell)
            if mask is not None:
                after = torch.where(mask[i], after, output)
                cell_after = torch.where(mask[i], cell_after, cell)
            outputs[i], output, cell = after, after, cell_after
        total = total + torch.stack(outputs)
    return total
