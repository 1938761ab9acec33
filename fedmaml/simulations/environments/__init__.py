"""Environments in which policies act, as functions of tensors.

An episode is a function of policy, world and noise. The *world* is what differs between clients (a
goal, a mass, the arms' probabilities); it and the noise are entries of the example, so an episode
is the same bits alone, among thousands and in any process, and passes ``torch.func.vmap``.

    begin(world)                            -> state
    observe(world, state, step)             -> what the policy sees
    step(world, state, action, chance)      -> state, reward, whether the episode goes on

All have a leading axis of episodes. `rollout` plays them; `faces` gives an environment the face of
``gymnasium.Env``, and takes others' environments.
"""

from fedmaml.simulations.environments.base import (
    Choose,
    Environment,
    Episodes,
    Outcome,
    World,
    rollout,
)

__all__ = ["Choose", "Environment", "Episodes", "Outcome", "World", "rollout"]
