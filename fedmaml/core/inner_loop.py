"""The inner loop: gradient steps from theta to fast weights. The only one in fedmaml."""

from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.func import grad

from fedmaml.core.params import Params, map_params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch

Loss = Callable[[Params, Batch], Tensor]


@settings
class GradientSteps:
    """Plain gradient descent, differentiable from end to end.

        phi_0 = params,    phi_{t+1} = phi_t - lr * grad L(phi_t)    for t < steps

    Attributes:
        lr: Step size, > 0.
        steps: Number of steps, >= 0; 0 returns the parameters as they came.
    """

    lr: Annotated[float, Gt(0)] = 0.01
    steps: Annotated[int, Ge(0), Le(1_000_000)] = 5

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
            batch: Examples of every step (full batch).
            rates: Step sizes per entry, in the shapes of ``params``; they replace ``lr``.
            first_order: Hold each step's gradient constant under an outer derivative, so that
                d phi / d params is the identity.
        """
        fast = params
        for _ in range(self.steps):
            point = map_params(Tensor.detach, fast) if first_order else fast
            gradient = grad(loss)(point, batch)
            if rates is None:
                fast = map_params(lambda w, g: w - self.lr * g, fast, gradient)
            else:
                fast = map_params(lambda w, g, rate: w - rate * g, fast, gradient, rates)
        return fast
