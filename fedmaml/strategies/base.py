"""What a strategy is: four verbs, in the order in which they happen.

    build          problem -> learner, the server's first state, a new client's memory
    adapt          meta-parameters and support examples -> predictor
    client_update  meta-parameters and one task -> update (a pseudo-gradient), new memory
    server_update  state and the weighted mean of the updates -> next state

A strategy is a frozen value: settings only. State is passed in and handed back. `adapt` and
`client_update` see one client and run under ``torch.func.vmap`` for many, so they must be pure:
no ``.item()``, no branch on tensor values, no in-place change.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fedmaml.core.inner_loop import GradientSteps, Loss
from fedmaml.core.learner import Learner, Predictor, Problem, make_learner
from fedmaml.core.outer_optimizer import OptimizerState, OuterOptimizer
from fedmaml.core.params import MetaParams, Params, subtract
from fedmaml.core.tasks import Batch, Task, example_count, joined


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


class MetaStrategy(ABC):
    """A federated (meta-)learning algorithm.

    The gradient steps that ``adapt`` takes are declared in a field ``adaptation`` or, where
    training and adaptation take the same steps, ``inner`` (`GradientSteps` both); a strategy that
    adapts without gradient steps has neither. `with_adaptation_steps` relies on it.
    """

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


S = TypeVar("S", bound=MetaStrategy)


def adaptation_steps(strategy: MetaStrategy) -> int | None:
    """Return how many gradient steps ``adapt`` takes; None if it adapts without gradient steps."""
    for name in ("adaptation", "inner"):
        if hasattr(strategy, name):
            return int(getattr(strategy, name).steps)
    return None


def with_adaptation_steps(strategy: S, steps: int) -> S:
    """Return the same strategy whose ``adapt`` takes another number of gradient steps.

    With 0 steps ``adapt`` yields the predictor before adaptation.
    """
    name = "adaptation" if hasattr(strategy, "adaptation") else "inner"
    return replace(strategy, **{name: replace(getattr(strategy, name), steps=steps)})  # type: ignore[type-var]


def evaluation_stages(strategy: MetaStrategy, steps: Sequence[int]) -> dict[str, MetaStrategy]:
    """Return what is evaluated: the strategy ("after"), unadapted ("before"), and at N steps."""
    stages = {"after": strategy}
    if adaptation_steps(strategy) is not None:
        stages["before"] = with_adaptation_steps(strategy, 0)
        for count in steps:
            stages[f"after@{count}"] = with_adaptation_steps(strategy, count)
    return stages


def initialise(problem: Problem, rng: torch.Generator) -> Initialised:
    """Begin with the whole network as theta, and no memory: what most strategies do."""
    learner, theta = make_learner(problem, rng)
    return Initialised(learner, ServerState({"theta": theta}), {})


def local_training(
    learner: Learner,
    loss: Loss,
    steps: GradientSteps,
    meta: MetaParams,
    memory: Params,
    task: Task,
) -> ClientUpdate:
    """Train on all of a client's examples, support and query together, and send theta - phi."""
    theta, local = meta["theta"], joined(task)
    phi = steps.run(loss, theta, local)
    metrics = {"loss_before": learner.loss(theta, local), "loss_after": learner.loss(phi, local)}
    return ClientUpdate({"theta": subtract(theta, phi)}, example_count(local), metrics, memory)


def outer_step(outer: OuterOptimizer, state: ServerState, update: MetaParams) -> ServerState:
    """Take one step of the outer optimiser: theta <- outer(theta, update)."""
    meta, optimizer = outer.step(state.meta, update, state.optimizer, state.finished_rounds)
    return ServerState(meta, optimizer, state.finished_rounds + 1)
