"""Checks of the predictions of a strategy and a network, by calls of `adapt` itself."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.findings import Audit, Checked, Finding, NotChecked, first
from fedmaml.core.learner import Predictor, Problem, prepared_tasks
from fedmaml.core.params import Params, map_params
from fedmaml.core.tasks import Batch, Task, TaskGroup, first_task, stack
from fedmaml.core.trees import Tree, leaves, map_tree
from fedmaml.strategies.base import Initialised, MetaStrategy, with_few_steps

_TOLERANCE = 1e-3
"""Relative; rounding stays far below, batch statistics far above."""
_STEPS = 3  # of adaptation; more steps find nothing more
_CLIENTS = 2
_NOISE = 0.1


def dependent_predictions(
    strategy: MetaStrategy, problem: Problem, seed: int, tasks: Mapping[int, Task], of: int
) -> Audit:
    """Find predictions that depend on anything but support examples and the input itself.

    A predictor gets query examples, then one of them among copies of itself, then the first ones
    again: a prediction may not depend on the other examples of a call, nor on earlier calls.

    Args:
        strategy: Its ``adapt`` is tested, with at most three gradient steps.
        problem: Network, loss and metrics.
        seed: Of the parameters at the test: initial ones plus noise, since parameters that are zero
            hide dependences.
        tasks: Client -> task of evaluated clients; the first two are used.
        of: How many there are.
    """
    start = strategy.build(problem, seeding.generator(seed, "init"))
    adapt = _at_a_generic_point(strategy, start, seed)
    transductive: list[int] = []
    remembering: list[int] = []
    tried, shift = 0, 0.0
    for client in sorted(tasks)[:_CLIENTS]:
        group = prepared_tasks(
            TaskGroup((client,), stack([tasks[client]])), problem, strategy.facts.draws,
            seed=seed, split="test", round=0,
        )  # fmt: skip
        task = first_task(group.tasks)
        support, x = task.support, task.query.x
        predictor = adapt(support)
        once = _table(predictor(x))
        if len(once) < 2 or not once.isfinite().all():
            continue
        tried += 1
        moved = max(
            _change(_table(predictor(_copies(x, row)))[row], once[row], once)
            for row in (0, len(once) // 2, len(once) - 1)
        )
        again = max(_change(_table(later(x)), once, once) for later in (predictor, adapt(support)))
        shift = max(shift, moved)
        transductive += [client] * (moved > _TOLERANCE)
        remembering += [client] * (again > _TOLERANCE)
    kinds = ("transductive-prediction", "state-between-calls")
    if not tried:
        why = "no evaluated client has two query examples with finite predictions"
        return Audit((), (), tuple(NotChecked(kind, why) for kind in kinds))
    how = f"{type(strategy).__name__}.adapt, the same examples in other company"
    audit = Audit((), tuple(Checked(kind, tried, of, how) for kind in kinds))
    return audit + Audit(_findings(transductive, remembering, shift))


def _findings(
    transductive: Sequence[int], remembering: Sequence[int], shift: float
) -> tuple[Finding, ...]:
    findings = []
    if transductive:
        detail = (
            "the prediction for a query example changes with the other query examples (by "
            f"{shift:.0%} of the largest prediction), as with batch statistics: results hold for "
            "examples that are evaluated together, and cannot be compared with others"
        )
        cure = (
            "normalise each example by itself, e.g. GroupNorm, or Conv4(norm='group'); else call "
            "the results transductive"
        )
        findings.append(
            Finding("transductive-prediction", "warning", detail, cure, first(transductive))
        )
    if remembering:
        detail = (
            "the same predictor gives the same examples other predictions the second time: "
            "something is kept from call to call, and query examples have an effect on it"
        )
        cure = "keep no state in network or strategy: `adapt` may use its arguments only"
        findings.append(Finding("state-between-calls", "leak", detail, cure, first(remembering)))
    return tuple(findings)


def _at_a_generic_point(
    strategy: MetaStrategy, start: Initialised, seed: int
) -> Callable[[Batch], Predictor]:
    """Return ``adapt`` with parameters that are not zero anywhere, and a few steps at most."""
    rng = seeding.generator(seed, "audit", "noise")

    def noisy(params: Params) -> Params:
        return map_params(
            lambda value: value + _NOISE * torch.randn(value.shape, generator=rng).to(value), params
        )

    tried = with_few_steps(strategy, _STEPS)
    # Rates and the like stay what they are: a negative one would make adaptation diverge.
    meta = {
        group: noisy(params) if group == "theta" else params
        for group, params in start.state.meta.items()
    }
    memory = noisy(start.memory)
    return lambda support: tried.adapt(start.learner, meta, memory, support)


def _table(prediction: Tree) -> Tensor:
    """Return predictions as one tensor, a row for each example."""
    return torch.cat([value[:, None].flatten(1) for value in leaves(prediction)], 1)


def _copies(x: Tree, row: int) -> Tree:
    return map_tree(lambda value: value[row : row + 1].expand_as(value).clone(), x)


def _change(value: Tensor, reference: Tensor, all_of_them: Tensor) -> float:
    """Return the largest change beside the largest prediction; infinite if it is not finite."""
    change = float((value - reference).abs().max()) / (float(all_of_them.abs().max()) or 1.0)
    return change if math.isfinite(change) else math.inf
