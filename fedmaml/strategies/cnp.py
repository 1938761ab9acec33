"""Conditional neural process: the support becomes one vector, the mean of what each example says.

    adapt          r_i = h([f(x_i), y_i]),  r = mean of r_i over the support     (no inner loop)
                   predictor: g([f(x), r])
    client sends   gradient of L_query in f, h and g
    server         (f, h, g) <- outer(..., mean over the cohort)

f is the network without its head, h and g have one hidden layer; y_i of a class is one-hot. The
order of the examples does not matter. Adaptation is one pass over the support, whose result, r, has
``hidden`` numbers.
Garnelo et al. Conditional Neural Processes. ICML 2018, eq. 2-4. arXiv:1807.01613.
Deviations: inputs are embedded by the scenario's network; g predicts the mean and no variance,
because the loss is the scenario's; clients are weighted by their number of query examples.
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
class CNP(MetaStrategy):
    """Federated conditional neural process; equations in the module docstring.

    Attributes:
        outer: Optimiser of f, h and g together.
        hidden: Width of h, g and r.
    """

    facts = Facts("CNP", "model", second_derivatives=False, adapts_by="", takes_masks=True)

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    hidden: Annotated[int, Gt(0)] = 64

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, body, head = embedding(problem, rng)
        width, outputs = sizes_of(head)
        learned: Params = {}
        for name, inputs, outs in (
            ("h1", width + outputs, self.hidden),
            ("h2", self.hidden, self.hidden),
            ("g1", width + self.hidden, self.hidden),
            ("g2", self.hidden, outputs),
        ):
            learned |= new_linear(name, inputs, outs, rng, problem.dtype)
        return compared(learner, body, learned)

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        examples = torch.cat([known.x, shown(problem, known)], -1)
        says = linear(learned, "h2", linear(learned, "h1", examples).relu())
        r = mean_over_support(says, mask_of(known))
        both = torch.cat([embedded, r.expand(len(embedded), -1)], -1)
        return linear(learned, "g2", linear(learned, "g1", both).relu())

    client_update = meta_update
    server_update = outer_step
