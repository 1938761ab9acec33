"""Networks that carry a hidden state over an episode: a recurrent policy, and ``nn.GRU``.

    policy   h_t = z h_{t-1} + (1 - z) tanh(C [position_t, h_{t-1}] + c),  z = s(Z [..] + d),
             action_t = tanh(A h_t + a) + noise_t / 2,
             position_{t+1} = (1 - drag) position_t + action_t       which environment was it?
    gru      reads the same noise and drag as a sequence

The policy's cell is a GRU (Cho et al. 2014, arXiv:1406.1078) without its reset gate, written in
linear layers, for which PyTorch has batching rules; it has none for ``nn.GRU`` and ``nn.GRUCell``.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.settings import settings
from fedmaml.simulations.scenario import Recipes
from tests.trees import HORIZON, RECIPES, Rollouts, Trees


class RecurrentPolicy(nn.Module):
    """A policy whose next action depends on all positions so far."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 6)
        self.candidate = nn.Linear(8, 6)
        self.actor = nn.Linear(6, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, episode: dict[str, Tensor]) -> Tensor:
        position = torch.zeros_like(episode["noise"][..., 0, :])
        hidden = position.new_zeros(*position.shape[:-1], 6)
        for step in range(HORIZON):
            seen = torch.cat([position, hidden], -1)
            z = torch.sigmoid(self.gate(seen))
            hidden = z * hidden + (1 - z) * torch.tanh(self.candidate(seen))
            action = torch.tanh(self.actor(hidden)) + 0.5 * episode["noise"][..., step, :]
            position = (1 - episode["drag"]) * position + action
        return self.head(hidden)


class SequenceReader(nn.Module):
    """The last output of ``nn.GRU``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.GRU(3, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, episode: dict[str, Tensor]) -> Tensor:
        drag = episode["drag"][..., None, :].expand(-1, HORIZON, -1)
        outputs, _ = self.body(torch.cat([episode["noise"], drag], -1))
        return self.head(outputs[:, -1])


@settings
class RecurrentRollouts(Trees):
    """The episodes of `tests.trees`, for these networks.

    Attributes:
        network: Which of them.
    """

    about: ClassVar[str] = "episodes of a recurrent policy, for tests"
    recipes: ClassVar[Recipes] = RECIPES
    seed: int = 0
    network: Literal["policy", "gru"] = "policy"

    def problem(self) -> Problem:
        network = {"policy": RecurrentPolicy, "gru": SequenceReader}[self.network]
        return Problem(network, cross_entropy, (ACCURACY,), classes=3)

    batch: ClassVar[Callable] = Rollouts.batch
