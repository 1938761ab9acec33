"""How a strategy declares, for the hand-written engines, which known computation its update is.

A strategy names the computation and every setting it depends on in `Kernel`; `kernel_spec` reads
the values. An engine refuses a setting that it does not know, so it never ignores one.
"""

from dataclasses import dataclass
from typing import Literal

from fedmaml.core.inner_loop import GradientSteps

Sends = Literal["exact", "first-order", "difference"]


@dataclass(frozen=True)
class Kernel:
    """A client's update as one of the known computations, in terms of the strategy's settings.

        phi_0 = theta,  phi_{t+1} = phi_t - lr * (grad L(phi_t) + proximal * (phi_t - theta))

    Attributes:
        sends: "exact" and "first-order": the gradient of the query loss at phi_k, through the steps
            on the support or not; "difference": theta - phi_k after steps on all examples.
        steps: Name of the setting that holds the gradient steps.
        proximal: Name of the setting that holds the strength of the pull to theta; "" for none.
    """

    sends: Sends
    steps: str = "inner"
    proximal: str = ""

    @property
    def settings(self) -> set[str]:
        """Return the names of the settings that the update depends on."""
        return {self.steps, self.proximal} - {""}


@dataclass(frozen=True)
class KernelSpec:
    """A `Kernel` with the values of one strategy.

    Attributes:
        sends: As in `Kernel`.
        inner: The gradient steps, with all of their settings.
        proximal: Strength of the pull to theta; 0 for none.
    """

    sends: Sends
    inner: GradientSteps
    proximal: float = 0.0
