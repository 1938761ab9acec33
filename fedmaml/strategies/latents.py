"""Parts of strategies that infer a latent of a client from what it saw."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from fedmaml.core.cells import linear, new_linear
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.gaussians import Gaussian, product_with_prior
from fedmaml.core.learner import Learner, Predictor, body_and_head, without_head
from fedmaml.core.linear import head_matrix, with_ones
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.replay import SLOW, Recalls, empty_replay, recalled, remembered
from fedmaml.core.tasks import Batch, Task, draws_of, joined, mask_of
from fedmaml.core.trees import Tree
from fedmaml.strategies.base import ServerState
from fedmaml.strategies.comparing import shown, sizes_of
from fedmaml.strategies.parts import conditioned, inputs_of_biases, inputs_of_first_bias

_MIN_VARIANCE = 1e-6  # variance of a factor
_APART = "prior."  # in the memory: what the prior played


class Context(NamedTuple):
    """What was seen.

    Attributes:
        rows: ``(rows, numbers)``.
        mask: Which of the rows there are; None: all.
        parts: Rows that one example makes; their factors weigh as much as one.
    """

    rows: Tensor
    mask: Tensor | None = None
    parts: int = 1


def new_encoder(
    inputs: int, hidden: int, latent: int, rng: Generator, dtype: torch.dtype
) -> Params:
    """Draw the parameters of `inferred`."""
    widths = inputs, hidden, hidden, 2 * latent
    encoder: Params = {}
    for name, ins, outs in zip("123", widths, widths[1:], strict=False):
        encoder |= new_linear(name, ins, outs, rng, dtype)
    return encoder


def inferred(meta: MetaParams, context: Context) -> Gaussian:
    """Return the posterior of the latent: N(0, I) times a Gaussian factor for each row."""
    encoder = meta["encoder"]
    hidden = linear(encoder, "2", linear(encoder, "1", context.rows).relu()).relu()
    mean, spread = linear(encoder, "3", hidden).chunk(2, -1)
    variance = (F.softplus(spread) + _MIN_VARIANCE) * context.parts
    return product_with_prior(mean, variance, context.mask)


def posterior(
    learner: Learner, meta: MetaParams, memory: Params, task: Task, most: int
) -> Gaussian:
    """Return the posterior in a client's update; see `seen_by`."""
    return inferred(meta, seen_by(learner, meta, memory, task, most))


def read_or_recalled(
    learner: Learner, theta: Params, sizes: tuple[int, int]
) -> tuple[Learner, int, Params]:
    """Return the learner, the numbers of a row of context, and a new client's replay.

    A network that acts stays whole. Of others the head is cut off, and there is no replay: all of
    a client's examples are data that it has.

    Args:
        learner: Of the whole network.
        theta: Its parameters.
        sizes: Rows of the replay, and of what the prior played; 0: that is not kept apart.

    Raises:
        UnsupportedProblemError: If a network acts and does not recall what it did, or has no
            linear head.
    """
    network, problem = learner.network, learner.problem
    if isinstance(network, Recalls):
        memory, apart = (empty_replay(size, network.played, problem.dtype) for size in sizes)
        if sizes[1]:
            memory |= _named(apart)
        return learner, network.context, memory
    if acts := getattr(network, "held_constant", ""):
        raise UnsupportedProblemError(
            f"this strategy goes over what a network did, and {type(network).__name__}, which "
            f"holds {acts} constant, cannot: give it what fedmaml.core.replay.Recalls names"
        )
    _, head = body_and_head(problem, theta)
    return without_head(learner), sum(sizes_of(head)), {}


def seen_by(learner: Learner, meta: MetaParams, memory: Params, task: Task, most: int) -> Context:
    """Return the context of a client's update: of its data, or of what it played, if it acts.

    That is all that the prior played, if that is kept apart, or 0 to ``most`` rows of the replay.
    """
    if not isinstance(learner.network, Recalls):
        return known_of(learner, meta, task.support)
    if apart := _apart(memory):
        rows = apart["rows"]
        return context_of(learner, rows, torch.arange(len(rows)).to(rows) < apart["written"])
    draws = draws_of(task.support)
    rows = recalled(memory, draws["rows"][0, :most])
    there = torch.arange(most, device=rows.device) < draws["length"] * (most + 1)
    return context_of(learner, rows, there & (memory["written"] > 0))


def collected(
    learner: Learner, meta: MetaParams, memory: Params, task: Task, q: Gaussian, every: int
) -> Params:
    """Return the memory after all examples of a round were played, by one draw of q or the prior.

    In half of the rounds it is the prior, if that is kept apart; the first ``every`` rows are then.
    """
    draws, apart = draws_of(task.support), _apart(memory)
    z, by_prior = q.at(draws["z"][0]), draws["prior"] < 0.5
    if apart:
        z = torch.where(by_prior, draws["z"][0, : len(z)], z)
    rows = at_latent(learner, meta, z)(joined(task).x)["played"]
    replay = remembered({name: memory[name] for name in ("rows", "written")}, rows)
    more = remembered(apart, rows[: min(every, len(apart["rows"]))]) if apart else {}
    return replay | _named({n: torch.where(by_prior, more[n], apart[n]) for n in apart})


def _apart(memory: Params) -> Params:
    prefix = len(_APART)
    return {name[prefix:]: value for name, value in memory.items() if name.startswith(_APART)}


def _named(apart: Params) -> Params:
    return {_APART + name: value for name, value in apart.items()}


def context_of(learner: Learner, rows: Tensor, there: Tensor | None = None) -> Context:
    """Return the context that rows of a replay make, some of which may not be there."""
    assert isinstance(learner.network, Recalls)
    seen = learner.network.context_of(rows)
    parts = seen.shape[1]
    mask = None if there is None else there.repeat_interleave(parts)
    return Context(seen.flatten(0, 1), mask, parts)


def known_of(learner: Learner, meta: MetaParams, support: Batch) -> Context:
    """Return [f(x_i), y_i] of a support, f the network without its head."""
    body, _ = body_and_head(learner.problem, meta["theta"])
    known = support._replace(x=learner.apply(body, support.x).flatten(1))
    return Context(torch.cat([known.x, shown(learner.problem, known)], 1), mask_of(support))


def without_slow(theta: Params) -> tuple[Params, MetaParams]:
    """Return theta without slow copies, and these as a group of their own, if there are any."""
    fast = {name: value for name, value in theta.items() if not name.startswith(SLOW)}
    slow = {name: fast[name] for name in fast if SLOW + name in theta}
    return fast, {"slow": slow} if slow else {}


def with_slow_copies(before: ServerState, after: ServerState, rate: float) -> ServerState:
    """Return the state after a step, whose slow copies, if any, follow theta at a rate."""
    if "slow" not in before.meta:
        return after
    theta = after.meta["theta"]
    slow = {name: value.lerp(theta[name], rate) for name, value in before.meta["slow"].items()}
    return replace(after, meta=after.meta | {"slow": slow})


def inputs_of_latent(learner: Learner, theta: Params, size: int, rng: Generator) -> Params:
    """Draw U, by which the latent moves biases: the first one, or those that a network names."""
    if isinstance(learner.network, Recalls):
        return inputs_of_biases(learner.network.latent_enters, theta, size, rng)
    return inputs_of_first_bias("pearl", learner, theta, size, rng)


def at_latent(learner: Learner, meta: MetaParams, z: Tensor) -> Predictor:
    """Return the network at z; its linear head is applied here, if it was cut off."""
    params, network, context = conditioned(meta, z), learner.network, meta["context"]
    if not isinstance(network, Recalls):
        return partial(_with_head, learner, params)
    held = {"theta": meta["theta"], "context": {n: context[n] for n in network.latent_held}}
    at_constant = conditioned(held, z.detach())
    params |= {name: at_constant[name] for name in network.latent_held}
    slow = meta.get("slow", {})
    inputs = {name: weights for name, weights in context.items() if name in slow}
    copies = conditioned({"theta": slow, "context": inputs}, z)
    return partial(learner.apply, params | {SLOW + name: v for name, v in copies.items()})


def _with_head(learner: Learner, params: Params, x: Tree) -> Tensor:
    body, head = body_and_head(learner.problem, params)
    return with_ones(learner.apply(body, x).flatten(1)) @ head_matrix(head)
