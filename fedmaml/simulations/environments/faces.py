"""Faces between our environments and ``gymnasium.Env``: extra ``rl``.

    as_gymnasium(environment, world, ...)  one of ours, for a policy that wants gymnasium
    from_gymnasium(make, policy)           somebody's, in a network that plays it, `Problem.network`

Our own scenarios need neither: gymnasium takes one step of one episode at a time.
Towers et al. Gymnasium: A Standard Interface for Reinforcement Learning Environments. 2024.
arXiv:2407.17032.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmaml.core.extras import imported
from fedmaml.core.trees import Tree
from fedmaml.simulations.environments.acting import GaussianPolicy, Prediction
from fedmaml.simulations.environments.base import Environment

Make = Callable[[Mapping[str, Tensor]], Any]
"""One episode's entries -> its environment, a ``gymnasium.Env``."""

_FAR = 1e6  # beyond what any observation reaches


def as_gymnasium(
    environment: Environment,
    world: Mapping[str, Tensor],
    *,
    actions: int | tuple[int, ...],
    chance: Literal["normal", "uniform"] = "uniform",
    bound: float = 1.0,
) -> Any:
    """Return one of our environments as a ``gymnasium.Env``, one episode at a time, in float64.

    Args:
        environment: Which.
        world: Its entries, without the axis of episodes.
        actions: Number of discrete actions, or shape of an action in [-bound, bound].
        chance: What the environment draws.
        bound: Largest entry of an action.

    Raises:
        ConfigurationError: If gymnasium is not installed.
    """
    gymnasium = imported("gymnasium", "rl", "the face of gymnasium.Env")
    face = type("EpisodeEnv", (EpisodeSteps, gymnasium.Env), {})(environment, world, chance)
    shape = face.observed(0).shape
    face.observation_space = gymnasium.spaces.Box(-_FAR, _FAR, shape, np.float64)
    face.action_space = (
        gymnasium.spaces.Discrete(actions)
        if isinstance(actions, int)
        else gymnasium.spaces.Box(-bound, bound, actions, np.float64)
    )
    return face


class EpisodeSteps:
    """What `as_gymnasium` makes a ``gymnasium.Env`` of; arguments as there."""

    np_random: np.random.Generator

    def __init__(self, environment: Environment, world: Mapping[str, Tensor], chance: str) -> None:
        self.environment = environment
        self.world = {name: value[None].double() for name, value in world.items()}
        self.chance = chance
        self.taken = 0
        self.state = environment.begin(self.world)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin an episode; the seed determines what the environment draws."""
        del options
        super().reset(seed=seed)  # type: ignore[misc]  # gymnasium's, which makes the generator
        self.taken = 0
        self.state = self.environment.begin(self.world)
        return self.observed(0), {}

    def step(self, action: Any) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Take a step; the episode is truncated at the horizon."""
        count = (1, self.environment.chances)
        drawn = (
            self.np_random.standard_normal(count)
            if self.chance == "normal"
            else self.np_random.uniform(size=count)
        )
        self.state, reward, goes_on = self.environment.step(
            self.world, self.state, torch.as_tensor(action)[None], torch.from_numpy(drawn)
        )
        self.taken += 1
        ended, late = not bool(goes_on), self.taken >= self.environment.horizon
        return self.observed(self.taken), float(reward), ended, late, {}

    def observed(self, step: int) -> NDArray[np.float64]:
        """Return what a policy sees now."""
        seen: Tensor = self.environment.observe(self.world, self.state, step)[0]
        return seen.numpy().copy()


class Playing(nn.Module):
    """A policy at work in somebody's environment, step by step; see `from_gymnasium`."""

    held_constant = "the episodes that it plays"

    def __init__(self, make: Make, policy: GaussianPolicy) -> None:
        super().__init__()
        self.make = make
        self.policy = policy

    def forward(self, x: Tree) -> Prediction:
        """Play the episodes, and return what `Acting` does, without ``states``."""
        rows = range(len(x["noise"]))
        episodes = [self._episode({name: value[row] for name, value in x.items()}) for row in rows]
        seen, actions, rewards, alive = (
            torch.stack(column) for column in zip(*episodes, strict=True)
        )
        log_prob = self.policy.log_prob(seen, actions)
        return {"log_prob": log_prob, "rewards": rewards, "alive": alive, "observations": seen}

    @torch.no_grad()
    def _episode(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Play one episode; steps after its end repeat the last one with reward 0."""
        environment, noise = self.make(x), x["noise"]
        seen, _ = environment.reset(seed=int(x["seed"]))
        columns: list[tuple[Tensor, Tensor, float, float]] = []
        over = False
        for eps in noise:
            observation = torch.as_tensor(np.asarray(seen)).to(noise)
            action = self.policy.choose(observation, eps)
            columns.append((observation, action, 0.0, 0.0))
            if not over:
                seen, reward, ended, late, _ = environment.step(action.numpy())
                columns[-1] = (observation, action, float(reward), 1.0)
                over = ended or late
        observations, actions, rewards, alive = zip(*columns, strict=True)
        return (
            torch.stack(observations), torch.stack(actions), noise.new_tensor(rewards),
            noise.new_tensor(alive),
        )  # fmt: skip


def from_gymnasium(make: Make, policy: GaussianPolicy) -> Playing:
    """Return a network that plays episodes in environments of gymnasium.

    It is computed client by client, since no environment of others passes vmap. The examples have
    the entries ``noise``, normal, ``(episodes, steps, actions)``, and ``seed``, int64,
    ``(episodes,)``, with which the environment is reset, so an episode is repeatable if the
    environment is. The loss is `acting.policy_loss`.

    Args:
        make: Makes the environment of an episode, e.g. with the goal of the client.
        policy: What acts; its actions must suit the environment.
    """
    return Playing(make, policy)
