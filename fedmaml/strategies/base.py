"""The interface of strategies: four verbs, in the order in which they run, and facts.

    build          problem -> learner, the server's first state, a new client's memory
    adapt          meta-parameters and support examples -> predictor
    client_update  meta-parameters and one task -> update (a pseudo-gradient), new memory
    server_update  state and the weighted mean of the updates -> next state

A strategy is a frozen value: settings only. State is passed in and returned. `adapt` and
`client_update` see one client and run under ``torch.func.vmap`` for many, so they must be pure:
no ``.item()``, no branch on tensor values, no in-place change. Further values that clients send
(SCAFFOLD's control variates, the h of q-FedAvg) are further groups of ``meta``.

`fedmaml.strategies.parts` holds verbs that many strategies share.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeVar, get_args

import torch
from torch import Tensor

from fedmaml.core.draws import Draws
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.kernels import AdaptationSpec, Adapts, Kernel, KernelSpec
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.outer_optimizer import OptimizerState, OuterOptimizer
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.requests import TRAINING_METRICS
from fedmaml.core.tasks import Batch, Task

Family = Literal[
    "baseline", "initialisation", "personalised", "representation", "metric", "model",
    "closed-form", "statistical", "other",
]  # fmt: skip
"""What is learned: a model that does not adapt; an initialisation for gradient steps; a model for
each client, beside or near a common one; a shared body; an embedding in which examples are
compared; a network that reads the support and predicts; a body for a head that is solved in closed
form; a prior over the clients' parameters."""


@dataclass(frozen=True)
class ServerState:
    """The state of the server between rounds.

    Attributes:
        meta: Meta-parameters; all of them are broadcast.
        optimizer: State of the outer optimiser.
        finished_rounds: Rounds whose updates are in ``meta``.
    """

    meta: MetaParams
    optimizer: OptimizerState = field(default_factory=dict)
    finished_rounds: int = 0


class Initialised(NamedTuple):
    """What `build` returns.

    Attributes:
        learner: Network and loss.
        state: The server's state before round 1.
        memory: A client's memory before its first round; never sent. Empty for most strategies.
    """

    learner: Learner
    state: ServerState
    memory: Params


class ClientUpdate(NamedTuple):
    """What one client computes in one round.

    Attributes:
        update: Pseudo-gradient, the tree and shapes of ``meta``; the server steps against it, so a
            strategy that trains locally sends theta - phi.
        weight: Number of examples, float64 scalar: the weight of the update in the mean.
        metrics: Scalars for the log: ``loss_after`` adaptation and, where there is a predictor
            without adaptation, ``loss_before``.
        memory: The client's next memory; it stays at the client.
    """

    update: MetaParams
    weight: Tensor
    metrics: dict[str, Tensor]
    memory: Params


@dataclass(frozen=True)
class Facts:
    """What a strategy declares about itself, so that no other code depends on its name.

    Attributes:
        label: Name in tables and figures, as in papers.
        family: What is learned; scenarios may have settings for a whole family.
        baseline: Whether it is a baseline that meta-learning must beat.
        has_rounds: Whether it trains in rounds at all.
        second_derivatives: Whether an update differentiates through gradient steps.
        adapts_by: Name of the setting that holds the steps of ``adapt`` (`Steps`); "" if it adapts
            without steps.
        takes_masks: Whether it computes means and counts with `Learner` and `example_count` only,
            so that tasks may be padded.
        kernel: The known computation that its update is; None: another one.
        adapts: The known computation that its ``adapt`` is; None: another one.
        draws: Noise of each client, see `core.draws`.
        metrics: Names of the metrics that `client_update` may return; a server refuses others.
    """

    label: str
    family: Family = "other"
    baseline: bool = False
    has_rounds: bool = True
    second_derivatives: bool = True
    adapts_by: str = "inner"
    takes_masks: bool = False
    kernel: Kernel | None = None
    adapts: Adapts | None = None
    draws: Draws = field(default_factory=dict)
    metrics: tuple[str, ...] = TRAINING_METRICS


class MetaStrategy(ABC):
    """A federated (meta-)learning algorithm.

    Attributes:
        facts: What the strategy declares about itself.
    """

    facts: ClassVar[Facts]

    def __init_subclass__(cls) -> None:
        """Refuse a strategy that does not declare its facts."""
        facts = getattr(cls, "facts", None)
        if not isinstance(facts, Facts):
            raise TypeError(
                f"strategy {cls.__name__} must state its facts, e.g. "
                f'facts = Facts("{cls.__name__}", "initialisation"); see fedmaml.strategies.base'
            )
        if facts.family not in get_args(Family):
            raise TypeError(
                f"strategy {cls.__name__} has family {facts.family!r}; allowed: "
                f"{', '.join(get_args(Family))}"
            )
        names = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}
        if facts.adapts_by and facts.adapts_by not in names:
            raise TypeError(
                f"strategy {cls.__name__} has no setting {facts.adapts_by!r}, by which it says "
                'that it adapts; name the setting in Facts(adapts_by=...), or "" for none'
            )
        for name, kind in (("kernel", Kernel), ("adapts", Adapts)):
            known = getattr(facts, name)
            if known is not None and not isinstance(known, kind):
                raise TypeError(
                    f"strategy {cls.__name__} has {name} = {known!r}; it must be a {kind.__name__} "
                    "of fedmaml.core.kernels, or be left out, which is never wrong"
                )
        named = facts.kernel.settings if facts.kernel else set()
        named = named | ({facts.adapts.pull} - {""} if facts.adapts else set())
        if missing := sorted(named - names):
            raise TypeError(
                f"strategy {cls.__name__} has no setting {missing[0]!r}, which its facts name; "
                f"it has {', '.join(sorted(names - {'facts'}))}"
            )

    @abstractmethod
    def build(self, problem: Problem, rng: torch.Generator) -> Initialised:
        """Make the learner, the server's first state and a new client's memory.

        Raises:
            UnsupportedProblemError: If the strategy cannot work on this problem.
        """

    @abstractmethod
    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        """Adapt the meta-parameters to one client; return its predictor."""

    @abstractmethod
    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        """Compute the update that one client sends."""

    @abstractmethod
    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        """Take the outer step with the aggregated update (weighted mean or robust)."""


class Steps(Protocol):
    """Steps of adaptation whose number can be changed, as `GradientSteps`."""

    @property
    def steps(self) -> int:
        """Number of steps."""

    def taking(self, steps: int) -> "Steps":
        """Return the same rule with another number of steps."""

    def moves(self) -> bool:
        """Return whether there are any steps."""


S = TypeVar("S", bound=MetaStrategy)


def adaptation_of(strategy: MetaStrategy) -> Steps | None:
    """Return the steps of a strategy's ``adapt``; None if it adapts without steps."""
    name = strategy.facts.adapts_by
    steps: Steps | None = getattr(strategy, name) if name else None
    return steps


def with_adaptation_steps(strategy: S, steps: int) -> S:
    """Return the same strategy whose ``adapt`` takes another number of steps.

    With 0 steps ``adapt`` returns the predictor before adaptation. A strategy that adapts without
    steps is returned unchanged.
    """
    own = adaptation_of(strategy)
    if own is None:
        return strategy
    return replace(strategy, **{strategy.facts.adapts_by: own.taking(steps)})  # type: ignore[type-var]


def with_few_steps(strategy: S, most: int) -> S:
    """Return the same strategy whose ``adapt`` takes at most ``most`` steps."""
    own = adaptation_of(strategy)
    if own is None:
        return strategy
    return with_adaptation_steps(strategy, min(own.steps or most, most) if own.moves() else 0)


def evaluation_stages(strategy: MetaStrategy, steps: Sequence[int]) -> dict[str, MetaStrategy]:
    """Return what is evaluated: the strategy ("after"), unadapted ("before"), and at N steps."""
    stages = {"after": strategy}
    if strategy.facts.adapts_by:
        stages["before"] = with_adaptation_steps(strategy, 0)
        for count in steps:
            stages[f"after@{count}"] = with_adaptation_steps(strategy, count)
    return stages


def steps_of(strategy: MetaStrategy) -> list[GradientSteps]:
    """Return all gradient steps among a strategy's settings."""
    values = (getattr(strategy, item.name) for item in fields(strategy))  # type: ignore[arg-type]
    return [value for value in values if isinstance(value, GradientSteps)]


def kernel_spec(strategy: MetaStrategy) -> KernelSpec | str:
    """Return what a hand-written engine must compute, or why none can.

    Every setting must be named by the strategy's `Kernel`, or affect the server or adaptation
    only; any other setting makes these engines refuse.
    """
    kernel = strategy.facts.kernel
    if kernel is None:
        return f"the update of {strategy.facts.label} is not written out for it"
    if unknown := _unknown_settings(strategy):
        return unknown
    head, local = (
        getattr(strategy, name) if name else None for name in (kernel.own_head, kernel.local)
    )
    if kernel.frozen_head:
        head = GradientSteps(steps=0)
    adapts = strategy.facts.adapts or Adapts()
    pull = adapts.pull if kernel.sends == "envelope" else kernel.proximal
    proximal = float(getattr(strategy, pull)) if pull else 0.0
    own = adaptation_spec(strategy) if adapts.own_model else None
    if isinstance(own, str):
        return own
    if kernel.sends in ("difference", "envelope"):
        adapts = Adapts()
    steps, weights = getattr(strategy, kernel.steps), kernel.step_weights
    return KernelSpec(kernel.sends, steps, proximal, head, adapts, local, own, weights)


def adaptation_spec(strategy: MetaStrategy) -> AdaptationSpec | str:
    """Return what a hand-written engine must compute to adapt, or why none can.

    Every setting must be that of the steps, or be named by the strategy's `Kernel`, or affect the
    server only; any other setting makes these engines refuse.
    """
    adapts, steps = strategy.facts.adapts, adaptation_of(strategy)
    if adapts is None or not isinstance(steps, GradientSteps):
        return f"the adaptation of {strategy.facts.label} is not written out for it"
    pull = float(getattr(strategy, adapts.pull)) if adapts.pull else 0.0
    return _unknown_settings(strategy) or AdaptationSpec(steps, adapts, pull)


def _unknown_settings(strategy: MetaStrategy) -> str:
    """Return why hand-written engines do not know all that a strategy depends on; "" if they do."""
    facts = strategy.facts
    if facts.draws:
        return f"{facts.label} draws noise, of which it knows nothing"
    known = {facts.adapts_by} | (facts.kernel.settings if facts.kernel else set())
    known |= {facts.adapts.pull} if facts.adapts else set()
    for item in fields(strategy):  # type: ignore[arg-type]
        outer = isinstance(getattr(strategy, item.name), OuterOptimizer)
        if item.name not in known and not outer:
            return f"it does not know the setting {item.name!r} of {facts.label}"
    return ""
