"""Which module of a network is to blame, found by running each by itself on what it was given.

Modules are tried from the innermost outwards, on the inputs they saw in a forward pass of the whole
network, so the first that fails is the smallest that does.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves, tree_map

from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.learner import Learner
from fedmaml.core.params import Params
from fedmaml.strategies import MAML, MetaSGD
from fedmaml.strategies.base import MetaStrategy, adaptation_steps

_EXAMPLES = 4  # enough for a module to run; batch statistics need more than one
_STEPS = (1e-6, 5e-7)
_LONGEST_REASON = 160


class _Seen(NamedTuple):
    """A module, and what it was called with.

    Attributes:
        name: In the network; "" for the network itself.
        module: The module.
        args: Its inputs.
        kwargs: Its keyword inputs.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        kind = type(self.module).__name__
        return f"module {self.name!r} ({kind})" if self.name else f"the network ({kind}) itself"

    def run(self, params: Params, floats: list[Tensor]) -> Tensor:
        """Return the sum of the outputs, each times a fixed number; a function of its arguments.

        Args:
            params: By their names in the module.
            floats: Replace the floating-point inputs, in their order.
        """
        rest = iter(floats)
        args, kwargs = tree_map(
            lambda value: next(rest) if _is_float(value) else value, (self.args, self.kwargs)
        )
        outputs = functional_call(self.module, params, args, kwargs)
        total = torch.zeros((), dtype=floats[0].dtype)
        for value in tree_leaves(outputs):
            if _is_float(value):
                count = torch.arange(value.numel(), dtype=value.dtype, device=value.device)
                total = total + (value.flatten() * (1.3 + count).sin()).sum()
        return total

    def floats(self) -> list[Tensor]:
        """Return its floating-point inputs."""
        return [value for value in tree_leaves((self.args, self.kwargs)) if _is_float(value)]


def needs_second_derivatives(strategy: MetaStrategy) -> bool:
    """Tell whether a strategy differentiates through gradient steps."""
    return isinstance(strategy, MAML | MetaSGD) and bool(adaptation_steps(strategy))


def check_derivatives(strategy: MetaStrategy, learner: Learner, params: Params, x: Tensor) -> None:
    """Refuse a network that lacks the derivatives that a strategy takes.

    Args:
        strategy: The algorithm.
        learner: The network.
        params: All of its parameters.
        x: Inputs.

    Raises:
        UnsupportedProblemError: Names the module and what to do.
    """
    second = needs_second_derivatives(strategy)
    for seen in _innermost_first(learner, params, x):
        own = _params_of(seen, params)
        if not seen.floats():
            continue
        try:
            _gradient(seen, own, seen.floats())
        except Exception as error:  # whatever a module may raise
            raise UnsupportedProblemError(
                f"{seen} cannot be differentiated by torch.func ({_reason(error)}), which every "
                "strategy needs; change no tensor in place (buffers neither), and give an "
                "autograd.Function of your own setup_context "
                "(https://pytorch.org/docs/stable/notes/extending.func.html)"
            ) from error
        if second and (reason := _no_second_derivative(seen, own)):
            name = type(strategy).__name__.lower().replace("metasgd", "meta_sgd")
            raise UnsupportedProblemError(
                f"{seen} has no second derivative ({reason}), and strategy {name!r} differentiates "
                "through gradient steps; use fomaml or reptile, which do without, or replace the "
                "module by one made of differentiable operations (no once_differentiable, no "
                ".detach() and no NumPy in a backward pass)"
            )


def what_prevents_vmap(learner: Learner, params: Params, x: Tensor) -> str:
    """Say which module cannot run under ``torch.func.vmap`` and why; "" if all can."""
    for seen in _innermost_first(learner, params, x):
        own = _params_of(seen, params)
        if not seen.floats():
            continue
        twice = tree_map(lambda value: torch.stack([value, value]), (own, seen.floats()))
        try:
            vmap(lambda p, floats, seen=seen: _gradient(seen, p, floats))(*twice)
        except Exception as error:
            return f"{seen}: {_reason(error)}"
    return ""


def changed_buffers(learner: Learner, params: Params, x: Tensor) -> list[str]:
    """Return the names of buffers that a forward pass changes."""
    before = {name: value.clone() for name, value in learner.network.named_buffers()}
    learner.apply(params, x)
    after = dict(learner.network.named_buffers())
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    for name in changed:
        after[name].copy_(before[name])
    return changed


def _innermost_first(learner: Learner, params: Params, x: Tensor) -> Iterator[_Seen]:
    """Yield every module that a forward pass calls, with the inputs of its first call."""
    calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(module, (args, kwargs))

    network = learner.network
    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True) for module in network.modules()
    ]
    try:
        learner.apply(params, x[:_EXAMPLES])
    finally:
        for hook in hooks:
            hook.remove()
    for name, module in reversed(list(network.named_modules())):
        if module in calls:
            yield _Seen(name, module, *tree_map(_detached, calls[module]))


def _params_of(seen: _Seen, params: Params) -> Params:
    prefix = seen.name + "." if seen.name else ""
    return {
        name.removeprefix(prefix): value
        for name, value in params.items()
        if name.startswith(prefix)
    }


def _gradient(seen: _Seen, params: Params, floats: list[Tensor]) -> tuple[Params, list[Tensor]]:
    return grad(seen.run, argnums=(0, 1))(params, floats)


def _no_second_derivative(seen: _Seen, params: Params) -> str:
    """Say why a module has no second derivative; "" if it has one."""

    def probe(params: Params, floats: list[Tensor], direction: list[Tensor]) -> Tensor:
        pairs = zip(tree_leaves(_gradient(seen, params, floats)), direction, strict=True)
        return sum((value * weight).sum() for value, weight in pairs)

    floats = seen.floats()
    try:
        grad(probe, argnums=(0, 1))(params, floats, tree_leaves((params, floats)))
    except Exception as error:
        return _reason(error)
    try:
        return _silently_constant(seen, params, probe)
    except Exception:  # a module that insists on single precision: what can be said was said
        return ""


def _silently_constant(seen: _Seen, params: Params, probe: Callable[..., Tensor]) -> str:
    """Find a gradient that changes otherwise than its derivative says.

    Central differences in double precision, at two steps: they agree unless a kink lies between.
    """
    rng = torch.Generator().manual_seed(0)

    def generic(value: Tensor) -> Tensor:  # off kinks, where inputs are exactly zero
        noise = torch.randn(value.shape, generator=rng, dtype=torch.float64)
        return value.double().cpu() + 0.01 * noise

    point = tree_map(generic, (params, seen.floats()))
    ways = [torch.randn(v.shape, generator=rng, dtype=torch.float64) for v in tree_leaves(point)]
    slopes = tree_leaves(grad(probe, argnums=(0, 1))(*point, ways))
    claimed = float(sum((slope * way).sum() for slope, way in zip(slopes, ways, strict=True)))
    found = []
    for step in _STEPS:
        ahead, behind = (_moved(point, ways, sign * step) for sign in (1, -1))
        found.append(float(probe(*ahead, ways) - probe(*behind, ways)) / (2 * step))
    first, second = found
    scale = max(abs(first), abs(claimed), 1e-3 * abs(float(probe(*point, ways))))
    if abs(first - second) < 0.01 * scale < abs(first - claimed):
        return "its backward pass is taken for constant, and is not"
    return ""


def _moved(point: Any, ways: list[Tensor], step: float) -> Any:
    rest = iter(ways)
    return tree_map(lambda value: value + step * next(rest), point)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _detached(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if len(lines[0]) <= _LONGEST_REASON else lines[0][:_LONGEST_REASON] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
