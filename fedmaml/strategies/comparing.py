"""Verbs and parts of strategies that predict from embedded examples, without any step.

All clients embed by the same weights, the network without its head (engine `shared`); what a
strategy learns beside them is the group ``comparison`` of its meta-parameters.
"""

from functools import partial
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.learner import (
    Learner,
    Predictor,
    Problem,
    body_and_head,
    make_learner,
    without_head,
)
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.tasks import Batch, mask_of
from fedmaml.core.trees import Tree
from fedmaml.strategies.base import Initialised, ServerState

LEARNED = "comparison"
"""Group of meta-parameters that a comparison learns."""

_MARGIN = 20.0  # bounded, so that queries of absent classes do not drown all others in training


class Compares(Protocol):
    """A strategy that predicts from embeddings, with the same weights for every client."""

    def compare(self, problem: Problem, learned: Params, known: Batch, embedded: Tensor) -> Tensor:
        """Return predictions for embedded inputs ``(examples, features)``.

        Args:
            problem: Its classes.
            learned: The group ``comparison`` of the meta-parameters, {} if there is none.
            known: The support, its inputs embedded likewise.
            embedded: What is to be predicted.
        """


def by_comparison(
    strategy: Compares, learner: Learner, meta: MetaParams, memory: Params, support: Batch
) -> Predictor:
    """Adapt: embed the support by theta; a prediction compares the embedding of its input with it.

    Without fast weights all clients embed with the same weights (engine `shared`).
    """
    del memory
    known = support._replace(x=_embedded(learner, meta["theta"], support.x))
    return partial(_compared, strategy, learner, meta, known)


def _compared(
    strategy: Compares, learner: Learner, meta: MetaParams, known: Batch, x: Tree
) -> Tensor:
    embedded = _embedded(learner, meta["theta"], x)
    return strategy.compare(learner.problem, meta.get(LEARNED, {}), known, embedded)


def _embedded(learner: Learner, theta: Params, x: Tree) -> Tensor:
    embedded: Tensor = learner.apply(theta, x)
    return embedded.flatten(1)


def needs_classes(problem: Problem, strategy: str, by: str) -> int:
    """Return the number of classes.

    Raises:
        UnsupportedProblemError: If the problem has none.
    """
    if problem.classes is None:
        raise UnsupportedProblemError(
            f"{strategy} adapts by {by} and needs a problem with classes "
            "(Problem(classes=...)); this one is a regression or has one binary logit"
        )
    return problem.classes


def embedding(problem: Problem, rng: Generator) -> tuple[Learner, Params, Params]:
    """Return the network without its head as learner, its parameters, and those of the head.

    Raises:
        UnsupportedProblemError: If it has no head, or nothing before it.
    """
    learner, theta = make_learner(problem, rng)
    return without_head(learner), *body_and_head(problem, theta)


def sizes_of(head: Params) -> tuple[int, int]:
    """Return the width of the embedding and the number of outputs, by a linear head.

    Raises:
        UnsupportedProblemError: If the head is not one linear layer.
    """
    weights = [value.shape for value in head.values() if value.ndim == 2]
    if len(weights) != 1:
        raise UnsupportedProblemError(
            "this strategy puts a module of its own in the place of the head, and reads its size "
            f"off the head, which must be one linear layer; it has {len(weights)} weight matrices"
        )
    ((outputs, width),) = weights
    return width, outputs


def compared(learner: Learner, body: Params, learned: Params) -> Initialised:
    """Build: an embedding, and what the comparison learns."""
    meta = {"theta": body} | ({LEARNED: learned} if learned else {})
    return Initialised(learner, ServerState(meta), {})


def membership(problem: Problem, known: Batch) -> Tensor:
    """Return which support examples belong to which class, bool, ``(examples, classes)``."""
    classes = torch.arange(problem.classes or 0, device=known.x.device)
    member = known.y[:, None] == classes
    return member if (mask := mask_of(known)) is None else member & mask[:, None]


def shown(problem: Problem, known: Batch) -> Tensor:
    """Return the targets as inputs of a network, ``(examples, outputs)``: classes as one-hot."""
    y = known.y
    if problem.classes is not None:
        y = y[:, None] == torch.arange(problem.classes, device=y.device)
    return y.reshape(len(y), -1).to(known.x.dtype)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Return cosines between rows, ``(left rows, right rows)``; of a row of zeros they are 0."""
    return F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).mT


def class_means(problem: Problem, known: Batch) -> Tensor:
    """Return the mean of each class's embeddings ``(classes, features)``; 0 if it has none."""
    member = membership(problem, known).to(known.x.dtype)
    means: Tensor = (member.T @ known.x) / member.sum(0).clamp(min=1)[:, None]
    return means


def attention(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax over the support, ``(examples, support)``; padding rows get nothing.

    Args:
        scores: Of support examples, ``(examples, support)``.
        mask: Which rows of the support are examples; None if all are.
    """
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)


def mean_over_support(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of the rows that are examples; arguments as of `attention`."""
    if mask is None:
        return values.mean(0)
    return (values * mask[:, None]).sum(0) / mask.sum()


def absent_last(logits: Tensor, present: Tensor) -> Tensor:
    """Put classes without support examples 20 below the largest logit: p < e^-20.

    Args:
        logits: ``(examples, classes)``; those of absent classes are ignored.
        present: bool, ``(classes,)``.
    """
    largest = logits.masked_fill(~present, -torch.inf).amax(-1, keepdim=True)
    return torch.where(present, logits, largest - _MARGIN)


def by_attention(scores: Tensor, member: Tensor) -> Tensor:
    """Return log sum_i exp(score_i) [y_i = class]; a softmax makes of it sum_i a_i [y_i = class].

    Args:
        scores: Of support examples, ``(examples, support)``; softmax over them is the attention.
        member: Which support example belongs to which class, ``(support, classes)``.
    """
    present = member.any(0)
    counted = member | ~present  # an absent class would have a sum of nothing, without gradient
    sums = scores[..., None].masked_fill(~counted, -torch.inf).logsumexp(-2)
    return absent_last(sums, present)
