"""Finds the module that makes a network fail, by running each module on its recorded inputs.

Modules are tried from the innermost outwards, on the inputs they got in a forward pass of the whole
network, so the first that fails is the smallest that fails.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_leaves, tree_map

from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.gradients import gradient
from fedmaml.core.learner import Learner
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.tasks import Task, part_of
from fedmaml.core.trees import leaves
from fedmaml.strategies.base import MetaStrategy, adaptation_of, with_adaptation_steps

_EXAMPLES = 4  # enough for a module to run; batch statistics need more than one
_STEPS = (1e-6, 5e-7)
_LONGEST_REASON = 160
_DIFFERENTIABLE = (
    "replace the module by one made of differentiable operations (no once_differentiable, no "
    ".detach() and no NumPy in a backward pass)"
)
_OURS: dict[type[nn.Module], str] = {
    nn.GRU: "GRU", nn.LSTM: "GRU", nn.RNN: "GRU", nn.MultiheadAttention: "MultiheadAttention",
}  # fmt: skip
"""Module of PyTorch with a fused kernel -> the one of `core.networks` in plain operations."""


class _Seen(NamedTuple):
    """A module and its inputs.

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
        outputs = self.outputs(params, floats)
        total = torch.zeros((), dtype=floats[0].dtype)
        for value in tree_leaves(outputs):
            if _is_float(value):
                count = torch.arange(value.numel(), dtype=value.dtype, device=value.device)
                total = total + (value.flatten() * (1.3 + count).sin()).sum()
        return total

    def outputs(self, params: Params, floats: list[Tensor] | None = None) -> Any:
        """Return what the module returns; arguments as in `run`."""
        rest = iter(self.floats() if floats is None else floats)
        args, kwargs = tree_map(
            lambda value: next(rest) if _is_float(value) else value, (self.args, self.kwargs)
        )
        return functional_call(self.module, params, args, kwargs)

    def floats(self) -> list[Tensor]:
        """Return its floating-point inputs."""
        return [value for value in tree_leaves((self.args, self.kwargs)) if _is_float(value)]


@dataclass(frozen=True)
class Subject:
    """What is examined: a strategy's network on one task.

    Attributes:
        strategy: The algorithm; its `adapt` determines the inputs of the network.
        learner: The network.
        meta: Meta-parameters.
        memory: The client's memory.
        task: Support and query.
    """

    strategy: MetaStrategy
    learner: Learner
    meta: MetaParams
    memory: Params
    task: Task

    @property
    def params(self) -> Params:
        """All parameters of the network by name."""
        known = dict(self.learner.network.named_parameters())
        given = self.meta["theta"] | self.memory
        return known | {name: value for name, value in given.items() if name in known}

    def predict(self) -> list[Tensor]:
        """Return predictions for some query examples; gradient steps of adaptation are left out."""
        unadapted = with_adaptation_steps(self.strategy, 0)
        predictor = unadapted.adapt(self.learner, self.meta, self.memory, self.task.support)
        return leaves(predictor(part_of(self.task.query, 0, _EXAMPLES).x))


def ours_in(network: nn.Module) -> str:
    """Return what to replace in a network by modules of `core.networks`; "" if nothing."""
    replaced = {
        f"{name or 'it'} ({type(module).__name__}) by fedmaml.core.networks.{ours}"
        for name, module in network.named_modules()
        for theirs, ours in _OURS.items()
        if isinstance(module, theirs)
    }
    return f"replace {', '.join(sorted(replaced))}" if replaced else ""


def needs_second_derivatives(strategy: MetaStrategy) -> bool:
    """Return whether a strategy differentiates through gradient steps."""
    steps = adaptation_of(strategy)
    return strategy.facts.second_derivatives and (steps is None or steps.moves())


def check_derivatives(subject: Subject) -> None:
    """Refuse a network without the derivatives that the strategy needs.

    Raises:
        UnsupportedProblemError: Names the module and the cure.
    """
    second, label = needs_second_derivatives(subject.strategy), subject.strategy.facts.label
    for seen in _innermost_first(subject):
        own = _params_of(seen, subject.params)
        if not seen.floats():
            continue
        try:
            _gradient(seen, own, seen.floats())
        except Exception as error:  # whatever a module may raise
            raise UnsupportedProblemError(
                f"{seen} cannot be differentiated ({_reason(error)}), which every strategy needs; "
                "change no tensor in place (buffers neither)"
            ) from error
        if second and (reason := _no_second_derivative(seen, own)):
            raise UnsupportedProblemError(
                f"{seen} has no second derivative ({reason}), and {label} differentiates "
                "through gradient steps; use fomaml or reptile, which do without, or "
                + (ours_in(seen.module) or _DIFFERENTIABLE)
            )


def what_prevents_vmap(subject: Subject) -> str:
    """Return the module that cannot run under ``torch.func.vmap``, and why; "" if all can."""
    for seen in _innermost_first(subject):
        own = _params_of(seen, subject.params)
        if not seen.floats():
            continue
        params, floats = _twice(own), _twice(seen.floats())
        one = partial(_gradient, seen)
        try:
            vmap(one)(params, floats)  # fast weights of each client
            vmap(one, in_dims=(None, 0))(own, floats)  # the first step, from shared ones
        except Exception as error:
            return f"{seen}: {_reason(error)}"
    return ""


def hidden_randomness(subject: Subject) -> str:
    """Return the module that draws random numbers of its own; "" if none does.

    Everything runs twice, with PyTorch's global generator in two states.
    """
    update = subject.strategy.client_update

    def once() -> list[Tensor]:
        sent = update(subject.learner, subject.meta, subject.memory, subject.task)
        return [*subject.predict(), *tree_leaves(sent)]

    if not _differs(once):
        return ""
    for seen in _innermost_first(subject):
        if _differs(partial(_outputs, seen, _params_of(seen, subject.params))):
            return str(seen)
    return f"client_update of {subject.strategy.facts.label}"


def _outputs(seen: _Seen, params: Params) -> list[Tensor]:
    return [value for value in tree_leaves(seen.outputs(params)) if isinstance(value, Tensor)]


def _differs(function: Callable[[], list[Tensor]]) -> bool:
    """Return whether a function's result depends on PyTorch's global generator."""
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            results.append([value.detach() for value in function()])
    return not all(
        torch.equal(one.nan_to_num(), other.nan_to_num())
        for one, other in zip(*results, strict=True)
    )


def changed_buffers(subject: Subject) -> list[str]:
    """Return the names of buffers that a forward pass changes."""
    learner = subject.learner
    before = {name: value.clone() for name, value in learner.network.named_buffers()}
    subject.predict()
    after = dict(learner.network.named_buffers())
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    for name in changed:
        after[name].copy_(before[name])
    return changed


def _innermost_first(subject: Subject) -> Iterator[_Seen]:
    """Yield every module that a prediction calls, with the inputs of its first call."""
    calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(module, (args, kwargs))

    network = subject.learner.network
    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True) for module in network.modules()
    ]
    try:
        subject.predict()
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
    return gradient(lambda point: seen.run(*point), (params, floats))


def _no_second_derivative(seen: _Seen, params: Params) -> str:
    """Return why a module has no second derivative; "" if it has one.

    A module that holds something constant on purpose, as one that plays episodes holds them, says
    what in its attribute ``held_constant``; its differences say nothing, and are not taken.
    """

    def probe(point: tuple[Params, list[Tensor]], direction: list[Tensor]) -> Tensor:
        pairs = zip(tree_leaves(_gradient(seen, *point)), direction, strict=True)
        return sum((value * weight).sum() for value, weight in pairs)

    floats = seen.floats()
    try:
        gradient(lambda point: probe(point, tree_leaves((params, floats))), (params, floats))
    except Exception as error:
        return _reason(error)
    if getattr(seen.module, "held_constant", ""):  # it says so itself
        return ""
    try:
        return _silently_constant(seen, params, probe)
    except Exception:  # a module for single precision only: no further test
        return ""


def _silently_constant(seen: _Seen, params: Params, probe: Callable[..., Tensor]) -> str:
    """Find a gradient whose change contradicts its derivative.

    Central differences in double precision, at two steps: they agree unless a kink lies between.
    """
    rng = torch.Generator().manual_seed(0)

    def generic(value: Tensor) -> Tensor:  # off kinks, where inputs are exactly zero
        noise = torch.randn(value.shape, generator=rng, dtype=torch.float64)
        return value.double().cpu() + 0.01 * noise

    point = tree_map(generic, (params, seen.floats()))
    ways = [torch.randn(v.shape, generator=rng, dtype=torch.float64) for v in tree_leaves(point)]
    slopes = tree_leaves(gradient(lambda own: probe(own, ways), point))
    pairs = zip(slopes, ways, strict=True)
    claimed = float(sum((slope.detach() * way).sum() for slope, way in pairs))

    def at(step: float) -> float:
        return float(probe(_moved(point, ways, step), ways).detach())

    first, second = ((at(step) - at(-step)) / (2 * step) for step in _STEPS)
    scale = max(abs(first), abs(claimed), 1e-3 * abs(at(0.0)))
    if abs(first - second) < 0.01 * scale < abs(first - claimed):
        return "its backward pass is taken for constant, and is not"
    return ""


def _moved(point: Any, ways: list[Tensor], step: float) -> Any:
    rest = iter(ways)
    return tree_map(lambda value: value + step * next(rest), point)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _twice(tree: Any) -> Any:
    return tree_map(lambda value: torch.stack([value, value]), tree)


def _detached(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if len(lines[0]) <= _LONGEST_REASON else lines[0][:_LONGEST_REASON] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
