"""A graph network, and a scenario for it: which class has a small graph of unequal size?

    h_0 = relu(W_0 nodes),  h_{l+1} = relu(W_l h_l + V_l sum of h_l over the neighbours)
    prediction = head(mean of h_L over the nodes that exist)

Gilmer, Schoenholz, Riley, Vinyals, Dahl. Neural Message Passing for Quantum Chemistry. ICML 2017,
eq. 1-3. arXiv:1704.01212.

One example is ``nodes`` (count, 3) and ``edges`` (count, 2), pairs of node numbers; ``mask`` says
which nodes exist. Messages along an edge are gathered and added by node number, in both directions;
an edge at a node that does not exist carries none.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.settings import settings
from fedmaml.simulations.scenario import Recipes
from tests.trees import RECIPES, Graphs, Trees


class MessagePassing(nn.Module):
    """Rounds of messages between neighbours; equations in the module docstring."""

    def __init__(self, widths: Sequence[int] = (3, 8, 8), classes: int = 3) -> None:
        super().__init__()
        first, *hidden = widths
        self.embed = nn.Linear(first, hidden[0])
        self.own = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.message = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(hidden))
        self.head = nn.Linear(hidden[-1], classes)

    def forward(self, graph: dict[str, Tensor]) -> Tensor:
        """Map graphs ``(examples, ...)`` to ``(examples, classes)``."""
        mask = graph["mask"][..., None]
        ends = torch.cat([graph["edges"], graph["edges"].flip(-1)], -2)
        hidden = torch.relu(self.embed(graph["nodes"])) * mask
        for own, message in zip(self.own, self.message, strict=True):
            hidden = torch.relu(own(hidden) + neighbours(message(hidden), ends)) * mask
        return self.head(hidden.sum(-2) / mask.sum(-2))


def neighbours(values: Tensor, ends: Tensor) -> Tensor:
    """Return the sum over edges (source, target) of the source's values, at each target.

    Args:
        values: ``(examples, nodes, width)``.
        ends: Node numbers, int64 ``(examples, edges, 2)``.
    """
    source, target = (
        end[..., None].expand(*end.shape, values.shape[-1]) for end in ends.unbind(-1)
    )
    return torch.zeros_like(values).scatter_add(-2, target, values.gather(-2, source))


@settings
class Messages(Trees):
    """The graphs of `tests.trees`, for this network."""

    about: ClassVar[str] = "graphs with messages between neighbours, for tests"
    recipes: ClassVar[Recipes] = RECIPES
    seed: int = 0

    def problem(self) -> Problem:
        return Problem(MessagePassing, cross_entropy, (ACCURACY,), classes=3)

    batch: ClassVar[Callable] = Graphs.batch
