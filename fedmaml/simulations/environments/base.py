"""The interface of environments, and the one loop that plays episodes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

World = Mapping[str, Tensor]
"""What differs between clients, by name; each entry ``(episodes, ...)``."""

Choose = Callable[[Tensor, Tensor], Tensor]
"""(observations, noise of this step) -> actions."""


class Outcome(NamedTuple):
    """What one step leads to.

    Attributes:
        state: The next one, ``(episodes, *state)``.
        reward: Of this step, ``(episodes,)``.
        goes_on: Whether the episode has a further step, bool, ``(episodes,)``.
    """

    state: Tensor
    reward: Tensor
    goes_on: Tensor


class Environment(Protocol):
    """Where a policy acts."""

    @property
    def horizon(self) -> int:
        """Most steps of an episode."""

    @property
    def chances(self) -> int:
        """Random numbers that the environment itself takes in a step."""

    def begin(self, world: World) -> Tensor:
        """Return the first states."""

    def observe(self, world: World, state: Tensor, step: int) -> Tensor:
        """Return what the policy sees, ``(episodes, observed)``."""

    def step(self, world: World, state: Tensor, action: Tensor, chance: Tensor) -> Outcome:
        """Take a step; ``chance`` is ``(episodes, chances)``."""


class Episodes(NamedTuple):
    """Episodes that were played; steps after the end of one have reward 0.

    Attributes:
        observations: ``(episodes, steps, observed)``.
        actions: ``(episodes, steps, ...)``.
        rewards: ``(episodes, steps)``.
        alive: 1 up to the last step of an episode, 0 after it, ``(episodes, steps)``.
        states: After each step, ``(episodes, steps, *state)``.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor
    states: Tensor


def rollout(
    environment: Environment, choose: Choose, world: World, noise: Tensor, chance: Tensor
) -> Episodes:
    """Play one episode for each row of the world.

    Differentiable, if ``choose`` is: wrap the call in ``torch.no_grad()`` where it must not be.

    Args:
        environment: Where.
        choose: The policy.
        world: Entries ``(episodes, ...)``.
        noise: Of the policy, ``(episodes, steps, ...)``.
        chance: Of the environment, ``(episodes, steps, chances)``.
    """
    state = environment.begin(world)
    going = torch.ones_like(state.flatten(1)[:, 0])
    columns: list[tuple[Tensor, ...]] = []
    for step in range(noise.shape[1]):
        seen = environment.observe(world, state, step)
        action = choose(seen, noise[:, step])
        state, reward, goes_on = environment.step(world, state, action, chance[:, step])
        columns.append((seen, action, reward * going, going, state))
        going = going * goes_on.to(going.dtype)
    return Episodes(*(torch.stack(values, 1) for values in zip(*columns, strict=True)))
