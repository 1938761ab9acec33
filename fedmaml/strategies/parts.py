"""Verbs that many strategies share.

    build = whole_network, client_update = meta_update, server_update = outer_step

in a strategy's class: one line for each verb that it shares with others.
"""

from collections.abc import Iterable
from functools import partial
from typing import Protocol

import torch
from torch import Generator, Tensor

from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.inner_loop import GradientSteps, Loss
from fedmaml.core.learner import (
    Learner,
    Predictor,
    Problem,
    body_and_head,
    make_learner,
    without_head,
)
from fedmaml.core.linear import flat_inputs, with_ones
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import MetaParams, Params, subtract
from fedmaml.core.tasks import Batch, Task, example_count, joined, mask_of
from fedmaml.core.trees import Tree
from fedmaml.strategies.base import (
    ClientUpdate,
    Initialised,
    MetaStrategy,
    ServerState,
    with_adaptation_steps,
)


class HasOuter(Protocol):
    """A strategy with an outer optimiser."""

    @property
    def outer(self) -> OuterOptimizer:
        """The optimiser."""


class HasInner(Protocol):
    """A strategy with local steps."""

    @property
    def inner(self) -> GradientSteps:
        """The steps."""


class Adaptable(Protocol):
    """A strategy with steps of adaptation apart from those of training."""

    @property
    def adaptation(self) -> GradientSteps:
        """The steps."""


def whole_network(strategy: MetaStrategy, problem: Problem, rng: Generator) -> Initialised:
    """Build: the whole network is theta, and clients keep nothing."""
    del strategy
    learner, theta = make_learner(problem, rng)
    return Initialised(learner, ServerState({"theta": theta}), {})


def network_with_head(strategy: MetaStrategy, problem: Problem, rng: Generator) -> Initialised:
    """Build: as `whole_network`, of a network that has a head and layers before it.

    Raises:
        UnsupportedProblemError: If it has not.
    """
    start = whole_network(strategy, problem, rng)
    without_head(start.learner)
    return start


def fine_tuned(
    strategy: Adaptable, learner: Learner, meta: MetaParams, memory: Params, support: Batch
) -> Predictor:
    """Adapt: gradient steps on the support set, ``adaptation``, from theta."""
    del memory
    fast = strategy.adaptation.run(learner.loss, meta["theta"], support)
    return partial(learner.apply, fast)


def head_features(learner: Learner, theta: Params, x: Tree) -> Tensor:
    """Return what a linear head multiplies, ``(examples, features)``; 1 last, if it has a bias.

    Args:
        learner: Its network stops before the head, unless it is all head.
        theta: Body and head.
        x: Inputs.
    """
    body, head = body_and_head(learner.problem, theta)
    features = learner.apply(body, x).flatten(1) if body else flat_inputs(x)
    return with_ones(features) if len(head) > 1 else features


def linear_prediction(learner: Learner, theta: Params, weights: Tensor, x: Tree) -> Tensor:
    """Return what a head of those weights predicts, ``(examples, 1)``; see `head_features`."""
    return (head_features(learner, theta, x) @ weights)[:, None]


def head_examples(learner: Learner, theta: Params, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return features and targets ``(examples,)`` of a linear head with one output.

    Rows that are padding are 0 in both, which changes no sum.
    """
    z = head_features(learner, theta, batch.x)
    y, mask = batch.y.reshape(len(z)).to(z.dtype), mask_of(batch)
    return (z, y) if mask is None else (z * mask[:, None], y * mask)


def inputs_of_first_bias(
    strategy: str, learner: Learner, theta: Params, size: int, rng: Generator
) -> Params:
    """Draw U of `inputs_of_biases` for the first bias of a network.

    Args:
        strategy: Its name.
        learner: Its network.
        theta: The network's parameters.
        size: Numbers that condition the network.
        rng: For U.

    Raises:
        UnsupportedProblemError: If the network has no bias.
    """
    name = next((name for name in theta if name.split(".")[-1] == "bias"), None)
    if name is None:
        raise UnsupportedProblemError(
            f"{strategy} adds its context to the first bias of a network, and "
            f"{type(learner.network).__name__} has none; give its first layer bias=True"
        )
    return inputs_of_biases([name], theta, size, rng)


def inputs_of_biases(names: Iterable[str], theta: Params, size: int, rng: Generator) -> Params:
    """Draw U from N(0, 1 / size), by which `conditioned` moves biases of theta."""
    return {
        name: torch.randn((*theta[name].shape, size), generator=rng, dtype=theta[name].dtype)
        / size**0.5
        for name in names
    }


def conditioned(meta: MetaParams, z: Tensor) -> Params:
    """Return theta with biases b + U z: z is a further input of their layers."""
    moved = {name: meta["theta"][name] + weights @ z for name, weights in meta["context"].items()}
    return meta["theta"] | moved


def meta_update(
    strategy: MetaStrategy, learner: Learner, meta: MetaParams, memory: Params, task: Task
) -> ClientUpdate:
    """Send grad_meta L_query(adapt(meta, support)), whatever ``adapt`` does.

    The weight is the number of query examples. The loss before adaptation is that of ``adapt``
    without its steps, where it has any.
    """
    metrics = {}
    if strategy.facts.adapts_by:
        unadapted = with_adaptation_steps(strategy, 0)
        predictor = unadapted.adapt(learner, meta, memory, task.support)
        metrics["loss_before"] = learner.query_loss(predictor, task.query)
    gradient, after = meta_gradient(strategy.adapt, learner, meta, memory, task)
    metrics["loss_after"] = after
    return ClientUpdate(gradient, example_count(task.query), metrics, memory)


def local_update(
    strategy: HasInner, learner: Learner, meta: MetaParams, memory: Params, task: Task
) -> ClientUpdate:
    """Send theta - phi after local steps on the learner's loss."""
    return train_locally(learner, learner.loss, strategy.inner, meta, memory, task)


def train_locally(
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


def outer_step(strategy: HasOuter, state: ServerState, update: MetaParams) -> ServerState:
    """Take one step of the outer optimiser: theta <- outer(theta, update)."""
    outer = strategy.outer
    meta, optimizer = outer.step(state.meta, update, state.optimizer, state.finished_rounds)
    return ServerState(meta, optimizer, state.finished_rounds + 1)
