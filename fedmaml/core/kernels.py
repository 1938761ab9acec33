"""How a strategy declares, for the hand-written engines, which known computations its verbs are.

A strategy names the computation of its update, and every setting it depends on, in `Kernel`, and
that of its ``adapt`` in `Adapts`; `kernel_spec` and `adaptation_spec` read the values. An engine
refuses a setting that it does not know, so it never ignores one.
"""

from dataclasses import dataclass
from typing import Literal

from fedmaml.core.inner_loop import GradientSteps

Sends = Literal["exact", "first-order", "difference", "meta-difference", "envelope", "nothing"]
Moves = Literal["all", "head", "body", "context"]


@dataclass(frozen=True)
class Adapts:
    """A strategy's ``adapt`` as a known computation; ``facts.adapts_by`` names its steps.

        phi_0 = theta and what the client keeps,
        phi_{t+1} = phi_t - lr * (grad L_support(phi_t) + pull * (phi_t - theta))

    The predictor is the network at phi_k.

    Attributes:
        moves: What the steps move: "all" parameters, those of the "head" or of the "body" alone, or
            a "context" c, which starts at 0, and U c is added to a bias of theta.
        learned: Group of meta-parameters that the steps use: U for a context; else a rate for each
            entry of theta, in the place of lr; "" if there is none.
        by_step: Whether that group holds rates for each tensor of theta and step, ``(steps,)``, the
            last of which counts for all further steps.
        pull: Name of the setting that holds the strength of the pull to theta; "" for none.
        own_model: Whether a client starts from a model of its own, once it has one. It keeps the
            parameters by the names of theta, and last whether it has taken part, 0 or 1.
    """

    moves: Moves = "all"
    learned: str = ""
    by_step: bool = False
    pull: str = ""
    own_model: bool = False


@dataclass(frozen=True)
class Kernel:
    """A client's update as one of the known computations, in terms of the strategy's settings.

    Attributes:
        sends: "exact" and "first-order": the gradient of the query loss at phi_k, through the steps
            on the support or not, which are those of the strategy's `Adapts`.
            "difference": theta - phi_k after steps on all examples,
            phi_{t+1} = phi_t - lr * (grad L(phi_t) + proximal * (phi_t - theta)).
            "meta-difference": theta - w after ``local`` steps from w = theta along the gradient of
            the query loss at phi_k, where phi_0 = w, and the steps on the support are `Adapts`.
            "envelope": the same along pull * (w - phi_k), where the steps are on all examples, and
            their pull is to w.
            "nothing": zeros, after the steps of `Adapts`.
        steps: Name of the setting that holds the gradient steps.
        proximal: Name of the setting that holds the strength of the pull to theta; "" for none.
        own_head: Name of the setting that holds the steps of the head, which a client keeps to
            itself. They are taken first; ``steps`` then move the body, which is sent. "" if there
            are none.
        frozen_head: Whether a client keeps a head that no step moves.
        local: Name of the setting that holds the steps of w; "" if there are none.
        step_weights: Group that holds the weights of the query losses after each step, whose
            weighted sum takes the place of that at phi_k; "" if there is none.
        elsewhere: Names of settings on which neither update nor adaptation depends.
    """

    sends: Sends
    steps: str = "inner"
    proximal: str = ""
    own_head: str = ""
    frozen_head: bool = False
    local: str = ""
    step_weights: str = ""
    elsewhere: tuple[str, ...] = ()

    @property
    def settings(self) -> set[str]:
        """Return the names of the settings that are known: of the update, and `elsewhere`."""
        return {self.steps, self.proximal, self.own_head, self.local, *self.elsewhere} - {""}


@dataclass(frozen=True)
class AdaptationSpec:
    """An `Adapts` with the values of one strategy.

    Attributes:
        inner: The gradient steps, with all of their settings.
        adapts: What they move, and by which rates.
        pull: Strength of the pull to theta; 0 for none.
    """

    inner: GradientSteps
    adapts: Adapts = Adapts()
    pull: float = 0.0


@dataclass(frozen=True)
class KernelSpec:
    """A `Kernel` with the values of one strategy.

    Attributes:
        sends: As in `Kernel`.
        inner: The gradient steps, with all of their settings.
        proximal: Strength of the pull to theta; 0 for none.
        own_head: Steps of the head that a client keeps; None if it keeps none.
        adapts: What the steps move, and by which rates; all, where `Kernel` says so.
        local: Steps of w; None if there are none.
        own_model: How a client's own model adapts beside the update; None if it keeps none.
        step_weights: As in `Kernel`.
    """

    sends: Sends
    inner: GradientSteps
    proximal: float = 0.0
    own_head: GradientSteps | None = None
    adapts: Adapts = Adapts()
    local: GradientSteps | None = None
    own_model: AdaptationSpec | None = None
    step_weights: str = ""

    @property
    def all_steps(self) -> tuple[GradientSteps, ...]:
        """Return all gradient steps."""
        own = self.own_model.inner if self.own_model else None
        return tuple(steps for steps in (self.inner, self.own_head, self.local, own) if steps)
