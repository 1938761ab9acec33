"""Which updates the hand-written engines support, setting by setting of a strategy's `Kernel`."""

from dataclasses import fields
from functools import lru_cache

from fedmaml.core.kernels import KernelSpec
from fedmaml.strategies.base import MetaStrategy, kernel_spec

_KNOWN = {"lr", "steps"}
_NEUTRAL = {"batch": 0, "epochs": 0}
"""Settings of gradient steps that are known at one value only."""

UNKNOWN_LOSS = "the loss is none of those in fedmaml.core.losses"


@lru_cache(maxsize=64)
def known_spec(strategy: MetaStrategy) -> KernelSpec | str:
    """Return the specification of a strategy's update, or why these engines cannot compute it.

    A setting that is not known here is refused, never ignored.
    """
    spec = kernel_spec(strategy)
    if isinstance(spec, str):
        return spec
    for item in fields(spec.inner):
        value = getattr(spec.inner, item.name)
        if item.name not in _KNOWN and value != _NEUTRAL.get(item.name, object()):
            return f"it does not know {item.name} = {value!r} of gradient steps"
    return spec
