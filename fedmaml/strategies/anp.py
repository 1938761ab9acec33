"""Attentive neural process: an input asks the support, and the examples near it answer.

    adapt          r_i = h([f(x_i), y_i])                                        (no inner loop)
                   r(x) = sum_i softmax_i(q(x) . k(x_i) / sqrt(hidden)) r_i,  q, k linear in f
                   predictor: g([f(x), r(x), s]),  s = mean of r_i over the support
    client sends   gradient of L_query in f, h, q, k and g
    server         all of them <- outer(..., mean over the cohort)

f is the network without its head, h and g have one hidden layer; y_i of a class is one-hot. The
order of the examples does not matter. It is to regression what matching networks are to classes.
Kim et al. Attentive Neural Processes. ICLR 2019, section 2.3. arXiv:1901.05761.
Deviations: inputs are embedded by the scenario's network; s stands for the latent path, without its
noise; one head of attention, one encoder for both paths and no self-attention; g predicts the mean
and no variance, because the loss is the scenario's; clients are weighted by their number of query
examples.
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
    embedding,
    field,
    linear,
    mask_of,
    mean_over_support,
    meta_update,
    new_linear,
    outer_step,
    settings,
    shown,
    sizes_of,
)


@settings
class ANP(MetaStrategy):
    """Federated attentive neural process; equations in the module docstring.

    Attributes:
        outer: Optimiser of all parts together.
        hidden: Width of h, g, r and of what is compared.
    """

    facts = Facts("ANP", "model", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    hidden: Annotated[int, Gt(0)] = 64

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, body, head = embedding(problem, rng)
        width, outputs = sizes_of(head)
        learned: Params = {}
        for name, inputs, outs in (
            ("query", width, self.hidden),
            ("key", width, self.hidden),
            ("h1", width + outputs, self.hidden),
            ("h2", self.hidden, self.hidden),
            ("g1", width + 2 * self.hidden, self.hidden),
            ("g2", self.hidden, outputs),
        ):
            learned |= new_linear(name, inputs, outs, rng, problem.dtype)
        return compared(learner, body, learned)

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        examples = torch.cat([known.x, shown(problem, known)], -1)
        says = linear(learned, "h2", linear(learned, "h1", examples).relu())
        keys = linear(learned, "key", known.x)
        scores = linear(learned, "query", embedded) @ keys.T / self.hidden**0.5
        mask = mask_of(known)
        s = mean_over_support(says, mask)
        every = [embedded, attention(scores, mask) @ says, s.expand(len(embedded), -1)]
        return linear(learned, "g2", linear(learned, "g1", torch.cat(every, -1)).relu())

    client_update = meta_update
    server_update = outer_step
