"""Checks the updates that clients send: finite differences, defining formulas, closed forms.

For each strategy, in float64, with the same code that a node runs (`computing.updates.train`),
on a network with dropout whose noise is declared, with full-batch steps and with mini-batches:

- a strategy that sends the gradient of its own objective (query loss after adaptation, or what
  `objectives` has for it) is compared with central finite differences of that objective over every
  meta-parameter;
- a first-order or local-training strategy, whose update is not the gradient of its objective, is
  compared with its defining formula, written a second time in plain loops (`formulas`);
- every strategy with a closed form on a quadratic is compared with it (`closed_forms`);
- one that sends the exact gradient is checked on episodes, too (`episodes`): what DiCE gives, with
  finite differences of the return;
- one that learns from a replay is checked on the half circle, too (`recalled`).
"""

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedmaml.computing import updates
from fedmaml.core import seeding
from fedmaml.core.draws import Draw
from fedmaml.core.errors import ConfigurationError, UnsupportedProblemError
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem, prepared_tasks
from fedmaml.core.losses import cross_entropy, squared_error
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import dropout
from fedmaml.core.params import MetaParams, flatten, map_params, unflatten
from fedmaml.core.plugins import absolute, is_own, own_name
from fedmaml.core.requests import TrainRequest
from fedmaml.core.tasks import Batch, Task, TaskGroup, first_task, stack
from fedmaml.simulations.scenarios.quadratic import Quadratic
from fedmaml.strategies import CATALOGUE
from fedmaml.strategies.base import Initialised, MetaStrategy
from fedmaml.verification.closed_forms import CLOSED_FORMS
from fedmaml.verification.differences import finite_differences
from fedmaml.verification.episodes import process_problem, process_task, takes_episodes
from fedmaml.verification.formulas import FORMULAS
from fedmaml.verification.objectives import OBJECTIVES
from fedmaml.verification.recalled import (
    differences_at_constants,
    learns_from_replay,
    recalled_start,
    recalled_task,
    small_recalled,
    with_a_past,
)

TOLERANCE = 1e-6
_WIDTHS = {"hidden", "filters", "keys", "slots", "width"}
"""Settings that are widths of modules which a strategy learns."""

_SEED = 11


@dataclass(frozen=True)
class CheckResult:
    """One comparison.

    Attributes:
        strategy: Name in the catalogue.
        reference: What the update was compared with.
        relative_error: ||sent - reference|| / ||reference||, float64.
    """

    strategy: str
    reference: str
    relative_error: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def check_all(only: str | None = None) -> list[CheckResult]:
    """Check all strategies of the catalogue, or one of it, or one in a file of one's own.

    Raises:
        ConfigurationError: If there is no such strategy, or its file cannot be imported.
    """
    if only is not None and is_own(only):
        CATALOGUE.add(own_name(only), absolute(only))
        only = own_name(only)
    if only is not None and only not in CATALOGUE:
        raise ConfigurationError(f"no strategy {only!r}; known: {', '.join(CATALOGUE)}")
    results = []
    for name in [only] if only else CATALOGUE:
        strategy = _with_steps(_narrow(CATALOGUE[name]()), GradientSteps(lr=0.1, steps=3))
        results.append(_check_on_network(name, strategy))
        batches = _with_steps(strategy, GradientSteps(lr=0.1, batch=4, epochs=2))
        if batches != strategy:
            results.append(_check_on_network(name, batches, ", mini-batches"))
        if name in CLOSED_FORMS:
            results.append(_check_on_quadratic(name, strategy))
        if takes_episodes(strategy):
            results.append(_check_on_episodes(name, strategy))
        if learns_from_replay(strategy):
            results.append(_check_on_replay(name, small_recalled(strategy)))
    return results


def sent_update(
    strategy: MetaStrategy, start: Initialised, meta: MetaParams, task: Task
) -> MetaParams:
    """Return the update that one client sends, from the code that a node runs."""
    request = TrainRequest(round=1, clients=(0,), meta=meta, form="stack", seed=_SEED)
    reply, _, _ = updates.train(
        strategy,
        start.learner,
        request,
        lambda clients: [TaskGroup(tuple(clients), stack([task]))],
        {0: start.memory},
        client_batch=1,
    )
    if reply.rejected:
        raise ArithmeticError(f"the client left itself out: {reply.rejected[0].detail}")
    sent: MetaParams = {}
    for group, rows in reply.update.items():
        assert isinstance(rows, Tensor)
        layout = tuple((name, tuple(value.shape)) for name, value in meta[group].items())
        sent[group] = unflatten(rows[0], layout)
    return sent


def _check_on_network(name: str, strategy: MetaStrategy, how: str = "") -> CheckResult:
    bare, start = _classification_task(), _built(strategy, _classification_problem())
    if start is None:
        bare, start = _regression_task(), _built(strategy, _regression_problem())
    if start is None:
        raise ConfigurationError(f"{name} takes neither problem of check-gradients")
    task = _with_noise(bare, strategy)
    meta = _perturbed(start.state.meta)
    start = start._replace(memory=_perturbed({"memory": start.memory})["memory"])
    if name in FORMULAS:
        text, formula = FORMULAS[name]
        expected = formula(strategy, start, meta, task)
        sent = sent_update(strategy, start, meta, bare)
        if name == "local":  # sends zero, which is added to what its adaptation yields
            adapted = _adapted_parameters(strategy, start, meta, task)
            sent = {"theta": map_params(torch.add, adapted, sent["theta"])}
        return CheckResult(name, text + how, _relative_error(sent, expected))
    sent = sent_update(strategy, start, meta, bare)
    expected = finite_differences(strategy, start, meta, task, OBJECTIVES.get(name))
    text = "central finite differences of its objective" + how
    return CheckResult(name, text, _relative_error(sent, expected))


def _check_on_quadratic(name: str, strategy: MetaStrategy) -> CheckResult:
    scenario = Quadratic(seed=3)
    task = first_task(scenario.tasks("train", [1], 1, {})[0].tasks)
    problem = scenario.problem()
    problem = Problem(problem.network, problem.loss, problem.metrics, dtype=torch.float64)
    start = strategy.build(problem, seeding.generator(7, "verification"))
    meta = _perturbed(start.state.meta)
    curvature, centre = scenario.parameters_of(1)
    points = {group: flatten(params) for group, params in meta.items()}
    expected = CLOSED_FORMS[name](strategy, points, curvature, centre)
    if name == "local":
        sent = {"theta": flatten(_adapted_parameters(strategy, start, meta, task))}
    else:
        update = sent_update(strategy, start, meta, task)
        sent = {group: flatten(params) for group, params in update.items()}
    error = _norm(list(sent.values()), list(expected.values())) / _norm(list(expected.values()))
    return CheckResult(name, "closed form on a quadratic", error)


def _check_on_episodes(name: str, strategy: MetaStrategy, estimator: str = "dice") -> CheckResult:
    sampled, known = (
        strategy.build(process_problem(kind), seeding.generator(7, "verification"))
        for kind in (estimator, "exact")
    )
    meta, task = _perturbed(sampled.state.meta), process_task()
    expected = finite_differences(strategy, known, meta, task)
    text = f"central finite differences of the expected return, {estimator}"
    error = _relative_error(sent_update(strategy, sampled, meta, task), expected)
    return CheckResult(name, text, error)


def _check_on_replay(name: str, strategy: MetaStrategy) -> CheckResult:
    bare = recalled_task()
    start = recalled_start(strategy, seeding.generator(7, "verification"))
    meta, task = _perturbed(start.state.meta), _with_noise(bare, strategy)
    start = with_a_past(strategy, start, meta, task)
    expected = differences_at_constants(strategy, start, meta, task)
    text = "central finite differences of actor and critics, constants held"
    error = _relative_error(sent_update(strategy, start, meta, bare), expected)
    return CheckResult(name, text, error)


def _adapted_parameters(
    strategy: MetaStrategy, start: Initialised, meta: MetaParams, task: Task
) -> dict[str, Tensor]:
    """Return the fast weights behind a predictor made by ``partial(learner.apply, fast)``."""
    predictor = strategy.adapt(start.learner, meta, start.memory, task.support)
    fast: dict[str, Tensor] = predictor.args[0]  # type: ignore[attr-defined]
    return fast


def _with_steps(strategy: MetaStrategy, steps: GradientSteps) -> MetaStrategy:
    """Return the strategy with other gradient steps."""
    changed = {
        item.name: steps
        for item in fields(strategy)  # type: ignore[arg-type]
        if isinstance(getattr(strategy, item.name), GradientSteps)
    }
    return replace(strategy, **changed)  # type: ignore[type-var]


def _narrow(strategy: MetaStrategy) -> MetaStrategy:
    """Return the strategy with modules of few parameters, each of which is moved."""
    wide = {item.name for item in fields(strategy)} & _WIDTHS  # type: ignore[arg-type]
    return replace(strategy, **dict.fromkeys(wide, 4))  # type: ignore[type-var]


def _built(strategy: MetaStrategy, problem: Problem) -> Initialised | None:
    """Return what a strategy builds; None if it is not made for such a problem."""
    try:
        return strategy.build(problem, seeding.generator(7, "verification"))
    except UnsupportedProblemError:
        return None


class _Network(nn.Module):
    """A small network with dropout, whose noise comes with the example."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.head = nn.Linear(6, outputs)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.head(dropout(torch.tanh(self.body(x["x"])), x["mask"], 0.25))
        return output


def _classification_problem() -> Problem:
    return Problem(
        _Network, cross_entropy, (ACCURACY,), classes=3, l2=0.01, dtype=torch.float64,
        draws={"mask": Draw((6,), "uniform")},
    )  # fmt: skip


def _classification_task() -> Task:
    x = seeding.normal(seeding.key(11, "verification"), [0], 15, 4)[0]
    y = torch.arange(15) % 3
    return Task(Batch(x[:6], y[:6]), Batch(x[6:], y[6:]))


def _regression_problem() -> Problem:
    network = partial(_Network, 1)
    return replace(_classification_problem(), network=network, loss=squared_error, classes=None)


def _regression_task() -> Task:
    """Return the inputs of the classification, with a target that is nearly linear in them."""
    support, query = _classification_task()
    return Task(*(Batch(x, x[:, :1] + 0.3 * torch.sin(2 * x[:, 1:2])) for x, _ in (support, query)))


def _with_noise(task: Task, strategy: MetaStrategy) -> Task:
    """Return the task as a node has it in round 1: with the noise of problem and strategy."""
    group, problem = TaskGroup((0,), stack([task])), _classification_problem()
    ready = prepared_tasks(group, problem, strategy.facts.draws, seed=_SEED, split="train", round=1)
    return first_task(ready.tasks)


def _perturbed(meta: MetaParams) -> MetaParams:
    """Move every number by a tenth of a normal draw, so that none of them is special."""

    def moved(value: Tensor, noise: Tensor, group: str) -> Tensor:
        if not value.is_floating_point():
            return value
        shift = 0.1 * noise if group == "theta" or not value.any() else 0.0
        return value * (1 + 0.1 * noise) + shift

    return {
        group: {name: moved(value, _noise(group, name, value), group) for name, value in p.items()}
        for group, p in meta.items()
    }


def _noise(group: str, name: str, value: Tensor) -> Tensor:
    key = seeding.key(5, "verification", group, name)
    return seeding.normal(key, [0], *value.shape)[0].to(value.dtype)


def _relative_error(sent: MetaParams, expected: MetaParams) -> float:
    left = [sent[group][name] for group in expected for name in expected[group]]
    right = [expected[group][name] for group in expected for name in expected[group]]
    return _norm(left, right) / _norm(right)


def _norm(left: list[Tensor], right: list[Tensor] | None = None) -> float:
    pairs = zip(left, right or [torch.zeros_like(value) for value in left], strict=True)
    return float(sum((a - b).square().sum() for a, b in pairs) ** 0.5)
