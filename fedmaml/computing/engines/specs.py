"""Which updates and adaptations the hand-written engines support, setting by setting."""

from dataclasses import fields
from functools import lru_cache

from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.kernels import AdaptationSpec, KernelSpec
from fedmaml.strategies.base import MetaStrategy, adaptation_spec, kernel_spec

_KNOWN = {"lr", "steps"}
_OF_WHOLE_NETWORKS = {"exact", "first-order", "difference"}
_NEUTRAL = {"batch": 0, "epochs": 0, "bound": 0.0, "later": 1.0}
"""Settings of gradient steps that are known at one value only."""

UNKNOWN_LOSS = "the loss is none of those in fedmaml.core.losses"


@lru_cache(maxsize=64)
def known_spec(strategy: MetaStrategy) -> KernelSpec | str:
    """Return the specification of a strategy's update, or why engines of whole networks cannot.

    They know updates that move all of theta by one rate. A setting that is not known here is
    refused, never ignored.
    """
    spec = known_spec_of_parts(strategy)
    if isinstance(spec, str):
        return spec
    simple = spec == KernelSpec(spec.sends, spec.inner, spec.proximal)
    if spec.sends not in _OF_WHOLE_NETWORKS or not simple:
        return f"it moves all of theta by one rate, and {strategy.facts.label} does not"
    return spec


@lru_cache(maxsize=64)
def known_spec_of_parts(strategy: MetaStrategy) -> KernelSpec | str:
    """Return the specification of a strategy's update, or why no engine of its kind can compute it.

    Beside those of `known_spec` there are updates that move the head, the body or a context alone,
    or by learned rates, those along paths of points that adapt, and those of clients that keep a
    head or a model. Steps must take all examples.
    """
    spec = kernel_spec(strategy)
    if isinstance(spec, str):
        return spec
    if spec.sends != "exact" and spec.adapts.learned:
        return f"it learns rates by the exact gradient alone, and {strategy.facts.label} does not"
    return next(filter(None, map(_unknown, spec.all_steps)), None) or spec


@lru_cache(maxsize=64)
def known_adaptation(strategy: MetaStrategy) -> AdaptationSpec | str:
    """Return the specification of a strategy's ``adapt``, or why no engine can compute it."""
    spec = adaptation_spec(strategy)
    return spec if isinstance(spec, str) else _unknown(spec.inner) or spec


def _unknown(steps: GradientSteps) -> str:
    """Return which setting of gradient steps is not known; "" if all are."""
    for item in fields(steps):
        value = getattr(steps, item.name)
        if item.name not in _KNOWN and value != _NEUTRAL.get(item.name, object()):
            return f"it does not know {item.name} = {value!r} of gradient steps"
    return ""
