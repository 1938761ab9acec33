"""Updates of strategies that learn from a replay, compared with differences at held constants.

A soft actor-critic has four constants: the critics' targets, the critics by which the actor's
actions are valued, the latent that the actor gets, and what was played. They are taken at the point
itself, and every other parameter is moved; the actor's and the critics' gradients are those of one
sum then.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedmaml.core.params import MetaParams, Params
from fedmaml.core.replay import SLOW, Recalls, recalled
from fedmaml.core.tasks import Task, draws_of, first_task
from fedmaml.simulations.scenarios.half_circle import HalfCircle
from fedmaml.strategies.base import Initialised, MetaStrategy
from fedmaml.strategies.pearl import PEARL
from fedmaml.verification.differences import finite_differences

_ROUNDS = 3  # that a client played before
_DISCOUNT = 0.9  # of `actor_critic_loss`
_SCENARIO = HalfCircle(hidden=3, episodes=2, radius=0.9)


def learns_from_replay(strategy: MetaStrategy) -> bool:
    """Return whether a strategy keeps what a client played."""
    return isinstance(strategy, PEARL)


def small_recalled(strategy: Any) -> Any:
    """Return the strategy with few parameters, a short memory, and a context kept apart."""
    few = {"latent": 2, "hidden": 3, "context": 2, "replay": 6, "batch": 3, "every": 1}
    return replace(strategy, **few, explored=True, kl=0.1)


def recalled_task() -> Task:
    """Return the episodes of one client's round."""
    (group,) = _SCENARIO.tasks("train", [0], 1, {})
    return first_task(group.tasks)


def recalled_start(strategy: MetaStrategy, rng: torch.Generator) -> Initialised:
    """Return what a strategy builds on the half circle."""
    return strategy.build(_SCENARIO.problem().in_dtype("float64"), rng)


def with_a_past(
    strategy: MetaStrategy, start: Initialised, meta: MetaParams, task: Task
) -> Initialised:
    """Return the start with the memory of a client that played some rounds, by the prior too."""
    draws = draws_of(task.support)
    support = task.support._replace(draws=draws | {"prior": torch.zeros(())})  # type: ignore[call-arg]
    for _ in range(_ROUNDS):
        found = strategy.client_update(start.learner, meta, start.memory, Task(support, task.query))
        start = start._replace(memory=found.memory)
    return start


def differences_at_constants(
    strategy: Any, start: Initialised, meta: MetaParams, task: Task
) -> MetaParams:
    """Return differences of (Q - target)^2 - value + kl KL, whose constants are held."""
    learner, draws = start.learner, draws_of(task.support)
    memory = strategy.client_update(learner, meta, start.memory, task).memory
    rows = {"played": recalled(memory, draws["rows"][1, : strategy.batch])}
    network = learner.network
    assert isinstance(network, Recalls)
    apart = network.context_of(start.memory["prior.rows"])
    seen, parts = apart.flatten(0, 1), apart.shape[1]
    held, z, _ = _at(meta, seen, parts, draws["z"][0])
    found = learner.apply(held, rows)
    target = found["rewards"] + _DISCOUNT * found["after"]

    def objective(_: Any, start: Initialised, point: MetaParams, task: Task) -> float:
        del start, task
        params, _, divergence = _at(point, seen, parts, draws["z"][0])
        actor = {name: value for name, value in params.items() if name.startswith("actor.")}
        for name in network.latent_held:
            actor[name] = point["theta"][name] + point["context"][name] @ z
        missed = learner.apply(params, rows)["q"] - target
        gain = learner.apply(held | actor, rows)["gain"]
        total = (missed.square().sum(0) - gain).mean() + strategy.kl * divergence
        return float(total)

    sought = (objective, ("theta", "context", "encoder"))
    zero = {name: torch.zeros_like(value) for name, value in meta["slow"].items()}
    return finite_differences(strategy, start, meta, task, sought) | {"slow": zero}


def _at(meta: MetaParams, seen: Tensor, parts: int, noise: Tensor) -> tuple[Params, Tensor, Tensor]:
    """Return the network's parameters at z, z, and the divergence; factors one after another."""
    e, size = meta["encoder"], len(meta["encoder"]["3.bias"]) // 2
    precision, moment = torch.ones(size), torch.zeros(size)
    for row in seen:
        for layer in "12":
            row = (e[f"{layer}.weight"] @ row + e[f"{layer}.bias"]).clamp(min=0)
        mean, spread = (e["3.weight"] @ row + e["3.bias"]).split(size)
        variance = ((1 + spread.exp()).log() + 1e-6) * parts
        precision, moment = precision + 1 / variance, moment + mean / variance
    mean, variance = moment / precision, 1 / precision
    z = mean + variance.sqrt() * noise[:size]
    own = meta["theta"] | {SLOW + name: value for name, value in meta["slow"].items()}
    for name, inputs in meta["context"].items():
        for entered in (name, SLOW + name):
            if entered in own:
                own[entered] = own[entered] + inputs @ z
    return own, z, 0.5 * (variance + mean**2 - 1 - variance.log()).sum()
