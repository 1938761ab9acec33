"""What a strategy is: four verbs, in the order in which they happen, and facts about itself.

    build          problem -> learner, the server's first state, a new client's memory
    adapt          meta-parameters and support examples -> predictor
    client_update  meta-parameters and one task -> update (a pseudo-gradient), new memory
    server_update  state and the weighted mean of the updates -> next state

A strategy is a frozen value: settings only. State is passed in and handed back. `adapt` and
`client_update` see one client and run under ``torch.func.vmap`` for many, so they must be pure:
no ``.item()``, no branch on tensor values, no in-place change. What else clients have to send
(SCAFFOLD's control variates, the h of q-FedAvg) is a further group of ``meta``.

`fedmaml.strategies.parts` holds verbs that many strategies share.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from fedmaml.core.draws import Draws
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.kernels import Kernel, KernelSpec
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.outer_optimizer import OptimizerState, OuterOptimizer
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.tasks import Batch, Task

Family = Literal["baseline", "initialisation", "metric", "representation", "other"]
"""What is learned: nothing that adapts; where adaptation begins; an embedding; a shared body."""


@dataclass(frozen=True)
class ServerState:
    """What the server carries from round to round.

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
        memory: What a client keeps before it first takes part; never travels. Empty for most.
    """

    learner: Learner
    state: ServerState
    memory: Params


class ClientUpdate(NamedTuple):
    """What one client computes in one round.

    Attributes:
        update: Pseudo-gradient, the tree and shapes of ``meta``; the server steps against it, so a
            strategy that trains locally sends theta - phi.
        weight: Number of examples behind it, float64 scalar; updates are averaged by it.
        metrics: Scalars for the log: ``loss_after`` adaptation and, where there is a predictor
            without adaptation, ``loss_before``.
        memory: What the client keeps for the next time; stays where the client is.
    """

    update: MetaParams
    weight: Tensor
    metrics: dict[str, Tensor]
    memory: Params


@dataclass(frozen=True)
class Facts:
    """What a strategy says of itself, so that nobody else need know it by name.

    Attributes:
        label: Name in tables and figures, as in papers.
        family: What is learned; scenarios may have settings for a whole family.
        baseline: Whether it is something that meta-learning must beat, and not meta-learning.
        has_rounds: Whether anything is trained together.
        second_derivatives: Whether an update differentiates through gradient steps.
        adapts_by: Name of the setting that holds the steps of ``adapt`` (`Steps`); "" if it adapts
            without steps.
        takes_masks: Whether means and counts are left to `Learner` and `example_count`, so that
            tasks may be padded.
        kernel: Which known computation the update is; None: none.
        draws: Noise of each client, see `core.draws`.
    """

    label: str
    family: Family = "other"
    baseline: bool = False
    has_rounds: bool = True
    second_derivatives: bool = True
    adapts_by: str = "inner"
    takes_masks: bool = False
    kernel: Kernel | None = None
    draws: Draws = field(default_factory=dict)


class MetaStrategy(ABC):
    """A federated (meta-)learning algorithm.

    Attributes:
        facts: What the strategy says of itself.
    """

    facts: ClassVar[Facts]

    def __init_subclass__(cls) -> None:
        """Refuse a strategy that does not say what it is."""
        facts = getattr(cls, "facts", None)
        if not isinstance(facts, Facts):
            raise TypeError(
                f"strategy {cls.__name__} must state its facts, e.g. "
                f'facts = Facts("{cls.__name__}", "initialisation"); see fedmaml.strategies.base'
            )
        names = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}
        if facts.adapts_by and facts.adapts_by not in names:
            raise TypeError(
                f"strategy {cls.__name__} has no setting {facts.adapts_by!r}, by which it says "
                'that it adapts; name the setting in Facts(adapts_by=...), or "" for none'
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
        """Make the meta-parameters into one client's predictor."""

    @abstractmethod
    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        """Compute what one client sends."""

    @abstractmethod
    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        """Step with the (weighted mean or robust) aggregate of the updates."""


class Steps(Protocol):
    """Steps of adaptation whose number can be changed, as `GradientSteps`."""

    @property
    def steps(self) -> int:
        """How many."""

    def taking(self, steps: int) -> "Steps":
        """Return the same steps, ``steps`` of them."""

    def moves(self) -> bool:
        """Tell whether there are any."""


S = TypeVar("S", bound=MetaStrategy)


def adaptation_of(strategy: MetaStrategy) -> Steps | None:
    """Return the steps of a strategy's ``adapt``; None if it adapts without steps."""
    name = strategy.facts.adapts_by
    steps: Steps | None = getattr(strategy, name) if name else None
    return steps


def with_adaptation_steps(strategy: S, steps: int) -> S:
    """Return the same strategy whose ``adapt`` takes another number of steps.

    With 0 steps ``adapt`` yields the predictor before adaptation. One that adapts without steps
    stays as it is.
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

    A setting that neither the strategy's `Kernel` names nor the server or adaptation alone use
    makes every such engine refuse.
    """
    kernel = strategy.facts.kernel
    if kernel is None:
        return f"the update of {strategy.facts.label} is not written out for it"
    if strategy.facts.draws:
        return f"{strategy.facts.label} draws noise, of which it knows nothing"
    elsewhere = {strategy.facts.adapts_by} | {
        item.name
        for item in fields(strategy)  # type: ignore[arg-type]
        if isinstance(getattr(strategy, item.name), OuterOptimizer)
    }
    for item in fields(strategy):  # type: ignore[arg-type]
        if item.name not in kernel.settings | elsewhere:
            return f"it does not know the setting {item.name!r} of {strategy.facts.label}"
    proximal = float(getattr(strategy, kernel.proximal)) if kernel.proximal else 0.0
    return KernelSpec(kernel.sends, getattr(strategy, kernel.steps), proximal)
