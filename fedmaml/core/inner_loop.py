"""The inner loop: gradient steps from theta to fast weights. The only one in fedmaml."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core.gradients import gradient, is_differentiated
from fedmaml.core.params import Params, map_params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, part_of, rows_of

Loss = Callable[[Params, Batch], Tensor]


@settings
class GradientSteps:
    """Plain gradient descent, differentiable from end to end.

        phi_0 = params,    phi_{t+1} = phi_t - lr * grad L_{B_t}(phi_t)    for t < number of steps

    B_t are all examples or, with ``batch`` b, the t-th b of them in their order; the last part of
    a pass is shorter where b does not divide the number of examples, and after it the first part
    follows again. So ``batch`` and ``epochs`` make the mini-batches of local training, ``batch=1``
    a stream of examples that arrive one after another, and a support of K * b episodes with K
    ``steps`` makes K stages, each on episodes of its own.

    Attributes:
        lr: Step size, > 0.
        steps: Number of steps, >= 0; 0 returns the parameters as they came.
        batch: Examples of a step, >= 0; 0: all of them.
        epochs: Passes over all examples, >= 0; 0: ``steps`` says how many steps are taken,
            otherwise it is ignored.
    """

    lr: Annotated[float, Gt(0)] = 0.01
    steps: Annotated[int, Ge(0), Le(1_000_000)] = 5
    batch: Annotated[int, Ge(0)] = 0
    epochs: Annotated[int, Ge(0), Le(1_000_000)] = 0

    def taking(self, steps: int) -> "GradientSteps":
        """Return the same rule with another number of steps."""
        return replace(self, steps=steps, epochs=0)

    def moves(self) -> bool:
        """Return whether there are any steps."""
        return bool(self.steps or self.epochs)

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """Yield the examples of each step."""
        rows = rows_of(batch)
        size = self.batch or max(rows, 1)
        in_a_pass = max(1, math.ceil(rows / size))
        for step in range(self.epochs * in_a_pass or self.steps):
            first = step % in_a_pass * size
            yield batch if in_a_pass == 1 else part_of(batch, first, first + size)

    def run(
        self,
        loss: Loss,
        params: Params,
        batch: Batch,
        *,
        rates: Params | None = None,
        first_order: bool = False,
    ) -> Params:
        """Take the steps and return the fast weights.

        Args:
            loss: (params, batch) -> scalar.
            params: Where to start; not changed.
            batch: The examples; each step takes its part of them.
            rates: Step sizes per entry, in the shapes of ``params``; they replace ``lr``.
            first_order: Hold each step's gradient constant under an outer derivative, so that
                d phi / d params is the identity.
        """
        fast, again = params, False if first_order else None
        for part in self.parts(batch):
            point = map_params(Tensor.detach, fast) if first_order else fast
            slope = gradient(_loss_on(part, loss), point, again)
            again = is_differentiated(slope)  # in the next steps as in the first
            if rates is None:
                fast = map_params(lambda w, g: w - self.lr * g, fast, slope)
            else:
                fast = map_params(lambda w, g, rate: w - rate * g, fast, slope, rates)
        return fast


def _loss_on(batch: Batch, loss: Loss) -> Callable[[Params], Tensor]:
    return lambda params: loss(params, batch)
