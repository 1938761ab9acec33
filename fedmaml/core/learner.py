"""A problem (network, loss, metrics) and the learner: network and loss as pure functions."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmaml.core import seeding
from fedmaml.core.counters import Counter
from fedmaml.core.draws import Draws, with_draws
from fedmaml.core.errors import ConfigurationError, UnsupportedProblemError
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params, squared_norm
from fedmaml.core.tasks import Batch, TaskGroup, cast, mask_of, rows_of
from fedmaml.core.trees import Tree

Predictor = Callable[[Tree], Tree]
"""The result of adaptation: inputs -> predictions, trees whose first axis is the examples."""


@dataclass(frozen=True)
class Problem:
    """What is to be learned, without any data.

    Attributes:
        network: Makes the network, e.g. the class of an ``nn.Module``; called under a seeded
            generator, so its own initialisation is used and is reproducible.
        loss: (predictions, targets) -> loss of each example, shape ``(examples,)``. Predictions
            come from the network, targets from the scenario: tensors or flat mappings of tensors.
        metrics: What is evaluated; the first is the headline metric.
        head: Name of the sub-module that is the last layer ("" if there is none): strategies that
            share a body or an embedding cut there.
        classes: Number of classes; None for regression and binary logits.
        l2: Weight of ``l2 * ||params||^2`` in the training loss.
        dtype: Floating-point type of parameters and data.
        draws: Noise of each example, which the network finds beside its input; see `core.draws`.
        ordered: Whether support examples stand in the order of time; smaller supports are then the
            first examples of all, not of each class.
        counters: What examples cost beyond bytes and operations; each has its own name.
        replayed: Network and loss for strategies that go over what a network did before
            (`core.replay.Recalls`), where these need others; None: the same ones.
    """

    network: Callable[[], nn.Module]
    loss: Callable[[Tree, Tree], Tensor]
    metrics: tuple[Metric, ...]
    head: str = "head"
    classes: int | None = None
    l2: float = 0.0
    dtype: torch.dtype = torch.float32
    draws: Draws = field(default_factory=dict, hash=False)
    ordered: bool = False
    counters: tuple[Counter, ...] = ()
    replayed: "tuple[Callable[[], nn.Module], Callable[[Tree, Tree], Tensor]] | None" = None

    def __post_init__(self) -> None:
        """Refuse counters that share a name."""
        names = [counter.name for counter in self.counters]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                f"Problem(counters=...) has two of one name: {', '.join(names)}; give each its own"
            )

    def in_dtype(self, name: str) -> "Problem":
        """Return the same problem with another type of parameters and data, e.g. "float64"."""
        return replace(self, dtype=getattr(torch, name))

    def for_replay(self) -> "Problem":
        """Return the same problem with the network and the loss that go over what was done."""
        if self.replayed is None:
            return self
        network, loss = self.replayed
        return replace(self, network=network, loss=loss, replayed=None)


@dataclass(frozen=True)
class Learner:
    """Network and loss as functions of the parameters; holds no state.

    Attributes:
        network: Skeleton that supplies the computation; its own parameter values are never used.
        problem: The problem it was built for.
    """

    network: nn.Module
    problem: Problem

    def apply(self, params: Params, x: Tree) -> Tree:
        """Return the network's output for inputs ``(examples, *features)``, or a tree of them."""
        return functional_call(self.network, params, (x,))

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Return the mean loss over the batch plus ``l2 * ||params||^2``, a scalar."""
        data_loss = self._mean_loss(self.apply(params, batch.x), batch)
        return data_loss + self.problem.l2 * squared_norm(params) if self.problem.l2 else data_loss

    def query_loss(self, predictor: Predictor, batch: Batch) -> Tensor:
        """Return an adapted predictor's mean loss over the batch, without any penalty."""
        return self._mean_loss(predictor(batch.x), batch)

    def _mean_loss(self, predictions: Tree, batch: Batch) -> Tensor:
        mask, rows = mask_of(batch), rows_of(batch)
        losses = self.problem.loss(predictions, batch.y)
        if losses.shape != (rows,):
            raise UnsupportedProblemError(
                f"the loss returned shape {tuple(losses.shape)} for {rows} examples; it must "
                "return one loss per example, e.g. cross_entropy(..., reduction='none')"
            )
        if mask is None:
            return losses.mean()
        return torch.where(mask, losses, 0).sum() / mask.sum()


def prepared_tasks(
    group: TaskGroup,
    problem: Problem,
    draws: Draws,
    *,
    seed: int,
    split: str,
    round: int,
    device: torch.device | None = None,
) -> TaskGroup:
    """Return a group of tasks as strategies get them: with noise, in the problem's type.

    Args:
        group: Tasks as the scenario made them.
        problem: Its own noise and its type are taken.
        draws: Noise that the strategy declares.
        seed: Of the run.
        split: Of the clients.
        round: Number of the round.
        device: Where the tensors go; None leaves them where they are.
    """
    drawn = with_draws(group, problem.draws, draws, seed=seed, split=split, round=round)
    return TaskGroup(drawn.clients, cast(drawn.tasks, problem.dtype, device))


def make_learner(problem: Problem, rng: torch.Generator) -> tuple[Learner, Params]:
    """Build the network and return its initial parameters.

    What the network freezes (``requires_grad_(False)``) is no parameter: it stays as it was built,
    at every client, and is not sent.

    Raises:
        UnsupportedProblemError: If it is no module, if a module keeps running statistics or drops
            out, or if there are no parameters.
    """
    with seeding.isolated(rng):
        given = problem.network()
        if not isinstance(given, nn.Module):
            raise UnsupportedProblemError(
                f"the network of Problem(network, ...) made {type(given).__name__}: it must be a "
                "function that returns a torch.nn.Module"
            )
        network = _thawed(given).to(problem.dtype)
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise UnsupportedProblemError(
                f"module {name!r} ({type(module).__name__}) draws random masks, which would make "
                "the inner loop irreproducible; remove it or set its p to 0, or use "
                "fedmaml.core.networks.dropout with noise that Problem(draws=...) declares"
            )
        if getattr(module, "running_mean", None) is not None:
            raise UnsupportedProblemError(
                f"module {name!r} ({type(module).__name__}) keeps running statistics, which differ "
                "between clients and break the inner loop; use GroupNorm, or pass "
                "track_running_stats=False to normalise by the statistics of each batch"
            )
    params = {name: value.detach().clone() for name, value in network.named_parameters()}
    if not params:
        raise UnsupportedProblemError(
            f"network {type(network).__name__} has no parameters{_or_all_frozen(network)}, so "
            "there is nothing to learn"
        )
    return Learner(network.requires_grad_(False), problem), params


def _thawed(given: nn.Module) -> nn.Module:
    """Return a copy of a network in which what is frozen is a buffer, so that nothing trains it."""
    network = copy.deepcopy(given)  # it may be somebody's, who makes one module for all calls
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if not value.requires_grad:
                delattr(module, name)
                module.register_buffer(name, value.detach())
    return network


def _or_all_frozen(network: nn.Module) -> str:
    return " that are not frozen" if list(network.buffers()) else ""


def on_device(learner: Learner, device: torch.device) -> Learner:
    """Return a learner whose network (its buffers, that is) is on a device."""
    if next(learner.network.parameters()).device == device:
        return learner
    return Learner(copy.deepcopy(learner.network).to(device), learner.problem)


def without_head(learner: Learner) -> Learner:
    """Return a learner whose network stops before the head: inputs -> embedding.

    Raises:
        UnsupportedProblemError: If the problem names no head, or the network is all head.
    """
    names = [name for name, _ in learner.network.named_parameters()]
    if not learner.problem.head or all(in_head(learner.problem, name) for name in names):
        raise UnsupportedProblemError(
            f"network {type(learner.network).__name__} has no layers before its head "
            f"{learner.problem.head!r}, and this strategy needs some: choose a deeper network, or "
            "name the last layer in Problem(head=...)"
        )
    network = copy.deepcopy(learner.network)
    network.set_submodule(learner.problem.head, nn.Identity())
    return Learner(network, learner.problem)


def in_head(problem: Problem, name: str) -> bool:
    """Return whether a parameter belongs to the head."""
    return bool(problem.head) and name.startswith(problem.head + ".")


def body_and_head(problem: Problem, params: Params) -> tuple[Params, Params]:
    """Return the parameters before the head, and those of the head."""
    head = {name: value for name, value in params.items() if in_head(problem, name)}
    return {name: value for name, value in params.items() if name not in head}, head
