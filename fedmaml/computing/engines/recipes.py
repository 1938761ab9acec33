"""What the hand-written engines must compute for a strategy, read off its settings."""

from dataclasses import dataclass
from typing import Literal

from fedmaml.strategies import FOMAML, MAML, FedAvg, FedProx, Reptile
from fedmaml.strategies.base import MetaStrategy


@dataclass(frozen=True)
class Recipe:
    """A client's computation, in terms that a kernel can follow.

        phi_0 = theta,  phi_{t+1} = phi_t - lr * (grad L(phi_t) + proximal * (phi_t - theta))

    Attributes:
        sends: "exact" and "first-order": the gradient of the query loss at phi_k, through the steps
            on the support or not; "difference": theta - phi_k after steps on all examples.
        steps: k.
        lr: Step size.
        proximal: Strength of the pull to theta.
    """

    sends: Literal["exact", "first-order", "difference"]
    steps: int
    lr: float
    proximal: float = 0.0


def recipe_of(strategy: MetaStrategy) -> Recipe | None:
    """Return a strategy's recipe; None for those that have none.

    Strategies are final, so the type tells everything.
    """
    if type(strategy) is MAML:
        return Recipe("exact", strategy.inner.steps, strategy.inner.lr)
    if type(strategy) is FOMAML:
        return Recipe("first-order", strategy.inner.steps, strategy.inner.lr)
    if type(strategy) is Reptile or type(strategy) is FedAvg:
        return Recipe("difference", strategy.inner.steps, strategy.inner.lr)
    if type(strategy) is FedProx:
        return Recipe("difference", strategy.inner.steps, strategy.inner.lr, strategy.mu)
    return None


UNKNOWN_LOSS = "the loss is none of those in fedmaml.core.losses"
NO_RECIPE = "only maml, fomaml, reptile, fedavg and fedprox are written out for it"
