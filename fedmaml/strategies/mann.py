"""MANN: a controller writes the support into an external memory and reads it for a query.

    adapt          for each example of the support, in order:                    (no inner loop)
                   h = LSTM([f(x_i), y_i, r], h),  k = tanh(K h),  g = sigmoid(G h)
                   w_w = g w_r + (1 - g) w_lu,  w_lu = [least used row of M]
                   M <- M without that row + w_w k';  w_r = softmax(scale * cos(k, M))
                   r = w_r M,  usage <- decay usage + w_r + w_w
                   predictor: a query is a further step with y = 0 that writes nothing:
                   logits(x) = W [h, r] + b
    client sends   gradient of L_query in f and all parts
    server         all of them <- outer(..., mean over the cohort)

f is the network without its head; y_i of a class is one-hot. M is empty before the first example,
so nothing of one round is left in the next. The order of the examples matters, a little.
Santoro, Bartunov, Botvinick, Wierstra, Lillicrap. Meta-Learning with Memory-Augmented Neural
Networks. ICML 2016, eq. 1-8 (least recently used access). arXiv:1605.06065.
Deviations: an example comes with its own target, where the paper shows it one step later; cosines
are scaled (at the paper's 1 reading is nearly a mean); one head reads; f embeds, where the paper
has pixels; clients are weighted by their number of query examples.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt

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
    cosines,
    embedding,
    field,
    linear,
    lstm,
    meta_update,
    new_linear,
    new_lstm,
    outer_step,
    settings,
    shown,
    sizes_of,
)


@settings
class MANN(MetaStrategy):
    """Federated memory-augmented network; equations in the module docstring.

    Attributes:
        outer: Optimiser of all parts together.
        hidden: Width of the controller.
        slots: Rows of M, which should exceed the support's examples: later ones replace earlier
            ones. Empty rows are read, too, so not by far.
        width: Numbers in a row of M.
        scale: Of the cosines, > 0.
        decay: Of the usage, in [0, 1).
    """

    facts = Facts("MANN", "model", second_derivatives=False, adapts_by="")

    outer: OuterOptimizer = field(default_factory=OuterOptimizer)
    hidden: Annotated[int, Gt(0)] = 64
    slots: Annotated[int, Gt(0)] = 32
    width: Annotated[int, Gt(0)] = 32
    scale: Annotated[float, Gt(0)] = 10.0
    decay: Annotated[float, Ge(0), Lt(1)] = 0.95

    def build(self, problem: Problem, rng: Generator) -> Initialised:
        learner, body, head = embedding(problem, rng)
        features, outputs = sizes_of(head)
        inputs = features + outputs + self.width + self.hidden
        learned = new_lstm("controller", inputs, self.hidden, rng, problem.dtype)
        for name, outs in (("key", self.width), ("gate", 1)):
            learned |= new_linear(name, self.hidden, outs, rng, problem.dtype)
        learned |= new_linear("out", self.hidden + self.width, outputs, rng, problem.dtype)
        return compared(learner, body, learned)

    adapt = by_comparison

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        targets, blank = shown(problem, known), known.x.new_zeros
        h, cell, read = blank(self.hidden), blank(self.hidden), blank(self.width)
        memory, reading, usage = blank(self.slots, self.width), blank(self.slots), blank(self.slots)
        rows = torch.arange(self.slots, device=usage.device)
        for x, y in zip(known.x, targets, strict=True):
            h, cell = lstm(learned, "controller", torch.cat([x, y, read, h]), cell)
            key, gate = linear(learned, "key", h).tanh(), linear(learned, "gate", h).sigmoid()
            least = (rows == usage.argmin()).to(usage.dtype)
            writing = gate * reading + (1 - gate) * least
            memory = memory * (1 - least)[:, None] + writing[:, None] * key
            reading, read = self._read(memory, key)
            usage = self.decay * usage + reading + writing
        every = len(embedded), -1
        before = read.expand(every), h.expand(every)
        asked = torch.cat(
            [embedded, targets.new_zeros(len(embedded), targets.shape[1]), *before], -1
        )
        h, _ = lstm(learned, "controller", asked, cell)
        _, read = self._read(memory, linear(learned, "key", h).tanh())
        return linear(learned, "out", torch.cat([h, read], -1))

    def _read(self, memory: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        weights = (self.scale * cosines(key, memory)).softmax(-1)
        return weights, weights @ memory

    client_update = meta_update
    server_update = outer_step
