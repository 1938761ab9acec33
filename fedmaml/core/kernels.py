"""How a strategy declares, for the hand-written engines, which known computations its verbs are.

A strategy names the computation of its update, and every setting it depends on, in `Kernel`, and
that of its ``adapt`` in `Adapts`; `kernel_spec` and `adaptation_spec` read the values. An engine
refuses a setting that it does not know, so it never ignores one.
"""

from dataclasses import dataclass
from typing import Literal

from fedmaml.core.inner_loop import GradientSteps

Sends = Literal["exact", "first-order", "difference", "nothing"]
Moves = Literal["all", "head"]


@dataclass(frozen=True)
class Adapts:
    """A strategy's ``adapt`` as a known computation; ``facts.adapts_by`` names its steps.

        phi_0 = theta and what the client keeps,  phi_{t+1} = phi_t - lr * grad L_support(phi_t)

    The predictor is the network at phi_k.

    Attributes:
        moves: What the steps move: "all" parameters, or those of the "head" alone.
        rates: Group of meta-parameters that holds a rate for each entry of theta, in the place of
            lr; "" if there are none.
    """

    moves: Moves = "all"
    rates: str = ""


@dataclass(frozen=True)
class Kernel:
    """A client's update as one of the known computations, in terms of the strategy's settings.

        phi_0 = theta,  phi_{t+1} = phi_t - lr * (grad L(phi_t) + proximal * (phi_t - theta))

    Attributes:
        sends: "exact" and "first-order": the gradient of the query loss at phi_k, through the steps
            on the support or not, which are those of the strategy's `Adapts`; "nothing": zeros,
            after the same steps; "difference": theta - phi_k after steps on all examples.
        steps: Name of the setting that holds the gradient steps.
        proximal: Name of the setting that holds the strength of the pull to theta; "" for none.
        own_head: Name of the setting that holds the steps of the head, which a client keeps to
            itself. They are taken first; ``steps`` then move the body, which is sent. "" if there
            are none.
        frozen_head: Whether a client keeps a head that no step moves.
    """

    sends: Sends
    steps: str = "inner"
    proximal: str = ""
    own_head: str = ""
    frozen_head: bool = False

    @property
    def settings(self) -> set[str]:
        """Return the names of the settings that the update depends on."""
        return {self.steps, self.proximal, self.own_head} - {""}


@dataclass(frozen=True)
class KernelSpec:
    """A `Kernel` with the values of one strategy.

    Attributes:
        sends: As in `Kernel`.
        inner: The gradient steps, with all of their settings.
        proximal: Strength of the pull to theta; 0 for none.
        own_head: Steps of the head that a client keeps; None if it keeps none.
        adapts: What the steps move, and by which rates.
    """

    sends: Sends
    inner: GradientSteps
    proximal: float = 0.0
    own_head: GradientSteps | None = None
    adapts: Adapts = Adapts()


@dataclass(frozen=True)
class AdaptationSpec:
    """An `Adapts` with the values of one strategy.

    Attributes:
        inner: The gradient steps, with all of their settings.
        adapts: What they move, and by which rates.
    """

    inner: GradientSteps
    adapts: Adapts
