"""Parts of strategies that infer a latent of a client from what it saw."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from fedmaml.core.cells import linear, new_linear
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.gaussians import Gaussian, product_with_prior
from fedmaml.core.learner import Learner, Predictor, body_and_head, without_head
from fedmaml.core.linear import head_matrix, with_ones
from fedmaml.core.params import Params
from fedmaml.core.replay import Recalls, empty_replay, recalled
from fedmaml.core.tasks import Batch, mask_of
from fedmaml.core.trees import Tree
from fedmaml.strategies.comparing import shown, sizes_of

_MIN_VARIANCE = 1e-6  # variance of a factor

Context = tuple[Tensor, Tensor | None]
"""What was seen, ``(rows, numbers)``, and which of the rows there are; None: all."""


def new_encoder(
    inputs: int, hidden: int, latent: int, rng: Generator, dtype: torch.dtype
) -> Params:
    """Draw the parameters of `inferred`."""
    widths = inputs, hidden, hidden, 2 * latent
    encoder: Params = {}
    for name, ins, outs in zip("123", widths, widths[1:], strict=False):
        encoder |= new_linear(name, ins, outs, rng, dtype)
    return encoder


def inferred(encoder: Params, rows: Tensor, mask: Tensor | None = None) -> Gaussian:
    """Return the posterior of the latent: N(0, I) times a Gaussian factor for each row."""
    hidden = linear(encoder, "2", linear(encoder, "1", rows).relu()).relu()
    mean, spread = linear(encoder, "3", hidden).chunk(2, -1)
    return product_with_prior(mean, F.softplus(spread) + _MIN_VARIANCE, mask)


def read_or_recalled(learner: Learner, theta: Params, size: int) -> tuple[Learner, int, Params]:
    """Return the learner, the numbers of a row of context, and a new client's replay.

    A network that acts stays whole. Of others the head is cut off, and there is no replay: all of
    a client's examples are data that it has.

    Args:
        learner: Of the whole network.
        theta: Its parameters.
        size: Rows of the replay.

    Raises:
        UnsupportedProblemError: If a network acts and does not recall what it did, or has no
            linear head.
    """
    network, problem = learner.network, learner.problem
    if isinstance(network, Recalls):
        return learner, network.context, empty_replay(size, network.played, problem.dtype)
    if acts := getattr(network, "held_constant", ""):
        raise UnsupportedProblemError(
            f"this strategy goes over what a network did, and {type(network).__name__}, which "
            f"holds {acts} constant, cannot: give it what fedmaml.core.replay.Recalls names"
        )
    _, head = body_and_head(problem, theta)
    return without_head(learner), sum(sizes_of(head)), {}


def recalled_context(
    learner: Learner, memory: Params, most: int, draws: Mapping[str, Tensor]
) -> Context:
    """Return the context that rows of a replay make, 0 to ``most`` of them.

    Args:
        learner: Its network makes it of rows.
        memory: The replay; if nothing is written there, no row is there.
        most: Rows.
        draws: Uniform numbers, ``rows`` ``(2, most or more)`` and ``length``.
    """
    network = learner.network
    assert isinstance(network, Recalls)
    rows = network.context_of(recalled(memory, draws["rows"][0, :most]))
    there = torch.arange(most, device=rows.device) < draws["length"] * (most + 1)
    return rows, there & (memory["written"] > 0)


def known_of(learner: Learner, theta: Params, support: Batch) -> Context:
    """Return [f(x_i), y_i] of a support, f the network without its head."""
    body, _ = body_and_head(learner.problem, theta)
    known = support._replace(x=learner.apply(body, support.x).flatten(1))
    return torch.cat([known.x, shown(learner.problem, known)], 1), mask_of(support)


def with_own_head(learner: Learner, params: Params) -> Predictor:
    """Return the network at some parameters; its linear head is applied here, if it was cut off."""
    if isinstance(learner.network, Recalls):
        return partial(learner.apply, params)
    return partial(_with_head, learner, params)


def _with_head(learner: Learner, params: Params, x: Tree) -> Tensor:
    body, head = body_and_head(learner.problem, params)
    return with_ones(learner.apply(body, x).flatten(1)) @ head_matrix(head)
