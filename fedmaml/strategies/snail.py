"""SNAIL: read the support as a sequence, by causal convolutions and attention.

    adapt          z_i = [f(x_i), y_i],  z = [f(x), 0] comes last                 (no inner loop)
                   convolutions of dilation d = 1, 2, 4, ..:
                   z_t <- [z_t, tanh(A (z_{t-d}, z_t)) o sigmoid(B (z_{t-d}, z_t))]
                   attention:  z_t <- [z_t, sum_{s <= t} softmax_s(q_t . k_s / sqrt(keys)) v_s]
                   attention, convolutions, attention, then logits(x) = W z + b
    client sends   gradient of L_query in f and all layers
    server         all of them <- outer(..., mean over the cohort)

f is the network without its head; y_i of a class is one-hot. The order of the examples matters.
Queries do not see each other: each is the end of a sequence of its own, and they share the layers'
values of the support.
Mishra, Rohaninejad, Chen, Abbeel. A Simple Neural Attentive Meta-Learner. ICLR 2018, section 3.
arXiv:1707.03141.
Deviations: one block of convolutions between two of attention, where the paper has two between
three; the number of dilations is a setting, where it is log2 of the length; clients are weighted by
their number of query examples.
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
    by_comparison,
    compared,
    embedding,
    field,
    linear,
    meta_update,
    new_linear,
    outer_step,
    settings,
    shown,
    sizes_of,
)

Sequence = tuple[Tensor, Tensor]
"""Values of the support ``(support, features)``, and of each query after it."""


@settings
class SNAIL(MetaStrategy):
    """Federated SNAIL; equations in the module docstring.

    Attributes:
        outer: Optimiser of all parts together.
        filters: Features that a convolution adds; an attention adds as many.
        keys: Width of what attention compares.
        dilations: Number of convolutions; n of them see 2^n examples, attention sees all.
    """

    facts = Facts("SNAIL", "model", second_derivatives=False, adapts_by="")

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    filters: Annotated[int, Gt(0)] = 32
    keys: Annotated[int, Gt(0)] = 32
    dilations: Annotated[int, Gt(0)] = 3

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, body, head = embedding(problem, rng)
        width, outputs = sizes_of(head)
        size, learned = width + outputs, dict[str, Tensor]()

        def add(name: str, inputs: int, outs: int) -> None:
            learned.update(new_linear(name, inputs, outs, rng, problem.dtype))

        def add_attention(name: str) -> int:
            for part, outs in (("q", self.keys), ("k", self.keys), ("v", self.filters)):
                add(f"{name}.{part}", size, outs)
            return size + self.filters

        size = add_attention("first")
        for level in range(self.dilations):
            add(f"convolution{level}", 2 * size, 2 * self.filters)
            size += self.filters
        size = add_attention("last")
        add("head", size, outputs)
        return compared(learner, body, learned)

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        targets = shown(problem, known)
        unknown = targets.new_zeros(len(embedded), targets.shape[1])
        z = torch.cat([known.x, targets], -1), torch.cat([embedded, unknown], -1)
        z = _attention(learned, "first", z)
        for level in range(self.dilations):
            z = _convolution(learned, f"convolution{level}", 2**level, z)
        _, last = _attention(learned, "last", z)
        return linear(learned, "head", last)

    client_update = meta_update
    server_update = outer_step


def _convolution(learned: Params, name: str, dilation: int, z: Sequence) -> Sequence:
    support, query = z
    count = len(support)
    before = torch.cat([support.new_zeros(dilation, support.shape[1]), support])  # from -dilation

    def grown(earlier: Tensor, now: Tensor) -> Tensor:
        new, gate = linear(learned, name, torch.cat([earlier, now], -1)).chunk(2, -1)
        return torch.cat([now, new.tanh() * gate.sigmoid()], -1)

    return grown(before[:count], support), grown(before[count].expand(len(query), -1), query)


def _attention(learned: Params, name: str, z: Sequence) -> Sequence:
    (sq, sk, sv), (qq, qk, qv) = (
        [linear(learned, f"{name}.{part}", values) for part in "qkv"] for values in z
    )
    scale, count = sk.shape[-1] ** -0.5, len(sk)
    later = torch.ones(count, count, dtype=torch.bool, device=sk.device).triu(1)
    read = (sq @ sk.T * scale).masked_fill(later, -torch.inf).softmax(-1) @ sv
    own = (qq * qk).sum(-1, keepdim=True)
    weights = (torch.cat([qq @ sk.T, own], -1) * scale).softmax(-1)
    of_query = weights[:, :-1] @ sv + weights[:, -1:] * qv
    return torch.cat([z[0], read], -1), torch.cat([z[1], of_query], -1)
