"""Scenarios whose examples are trees: graphs, sequences, episodes, and graphs with labelled nodes.

Inputs have integer entries beside floating ones, clients have supports and queries of unequal size,
and `Sequences` declares noise. They are what the contracts of `tests/contracts/test_trees.py` run
on; other processes find them by the entry points that `tests/backends` installs.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.draws import Draw
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY, Metric
from fedmaml.core.networks import dropout
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations.scenario import Recipes, Scenario, Split

NODES, EDGES, TOKENS, LENGTH, HORIZON = 5, 6, 11, 4, 6
RECIPES: Recipes = {
    "*": {"rounds": 2, "inner.lr": 0.1, "inner.steps": 2, "dtype": "float64"},
    "local": {"rounds": 0},
}


class GraphNetwork(nn.Module):
    """Messages along edges (source, target), then the mean over the nodes that the mask keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 8)
        self.head = nn.Linear(8, 3)

    def nodes(self, graph: dict[str, Tensor]) -> Tensor:
        hidden = torch.tanh(self.body(graph["nodes"]))
        ends = (graph["edges"][..., None] == torch.arange(NODES)).to(hidden.dtype)
        source, target = ends.unbind(-2)  # (graphs, edges, nodes)
        return hidden + target.mT @ (source @ hidden)

    def forward(self, graph: dict[str, Tensor]) -> Tensor:
        mask = graph["mask"][..., None]
        return self.head((self.nodes(graph) * mask).sum(-2) / mask.sum(-2))


class NodeNetwork(GraphNetwork):
    """A prediction for every node."""

    def forward(self, graph: dict[str, Tensor]) -> Tensor:
        return self.head(self.nodes(graph))


class Recurrent(nn.Module):
    """Tokens one after the other, and dropout whose noise comes with the example."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 6)
        self.cell = nn.Linear(12, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        tokens = self.embedding(x["x"])
        hidden = torch.zeros_like(tokens[..., 0, :])
        for step in range(LENGTH):
            hidden = torch.tanh(self.cell(torch.cat([tokens[..., step, :], hidden], -1)))
        return self.head(dropout(hidden, x["mask"], 0.25))


class Policy(nn.Module):
    """A policy at work in an environment with drag; which of three environments was it?"""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 4)
        self.head = nn.Linear(6, 3)

    def forward(self, episode: dict[str, Tensor]) -> Tensor:
        position = torch.zeros_like(episode["noise"][..., 0, :])
        for step in range(HORIZON):
            hidden = torch.tanh(self.body(position))
            action = hidden[..., :2] + 0.5 * episode["noise"][..., step, :]
            position = (1 - episode["drag"]) * position + action
        return self.head(torch.cat([position, hidden], -1))


def node_loss(prediction: Tensor, y: dict[str, Tensor]) -> Tensor:
    """Mean over the labelled nodes of each graph (-100: no label), times the graph's weight."""
    losses = F.cross_entropy(
        prediction.movedim(-1, 1), y["labels"], reduction="none", ignore_index=-100
    )
    return y["weight"] * losses.sum(-1) / (y["labels"] >= 0).sum(-1)


def node_accuracy(prediction: Tensor, y: dict[str, Tensor]) -> Tensor:
    labelled = y["labels"] >= 0
    return ((prediction.argmax(-1) == y["labels"]) & labelled).sum() / labelled.sum()


class Trees(Scenario):
    """What the scenarios below share."""

    def clients(self) -> dict[Split, range]:
        return {"train": range(9), "validation": range(9, 11), "test": range(11, 15)}

    def statistics(self, client: int) -> Params:
        del client
        return {}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        del shared_statistics
        return group_by_shape(
            {client: self.task(client, round if split == "train" else 0) for client in clients}
        )

    def task(self, client: int, round: int) -> Task:
        support, query = 4 + client % 3, 3 + client // 3 % 3
        name = type(self).__name__
        batches = []
        for side, count in (("support", support), ("query", query)):

            def draw(name_: str, *shape: int, side: str = side) -> Tensor:
                key = seeding.key(self.seed, name, side, name_, round)
                return seeding.uniform(key, [client], *shape)[0]

            batches.append(self.batch(count, draw))
        return Task(*batches)

    @abstractmethod
    def batch(self, count: int, draw: Callable[..., Tensor]) -> Batch:
        """Make some examples from uniform draws by name."""


def classes(count: int, draw: Callable[..., Tensor]) -> Tensor:
    """Each class in turn, from a random one on."""
    return (torch.arange(count) + (3 * draw("class")).long()) % 3


def graphs(count: int, draw: Callable[..., Tensor], y: Tensor) -> dict[str, Tensor]:
    nodes = draw("nodes", count, NODES, 3) + y[:, None, None]
    edges = (NODES * draw("edges", count, EDGES, 2)).long()
    alive = 2 + ((NODES - 1) * draw("alive", count)).long()
    mask = (torch.arange(NODES) < alive[:, None]).double()
    return {"nodes": nodes, "edges": edges, "mask": mask}


@settings
class Graphs(Trees):
    """Small graphs, one class each."""

    about: ClassVar[str] = "small graphs, for tests"
    recipes: ClassVar[Recipes] = RECIPES
    seed: int = 0

    def problem(self) -> Problem:
        return Problem(GraphNetwork, cross_entropy, (ACCURACY,), classes=3)

    def batch(self, count: int, draw: Callable[..., Tensor]) -> Batch:
        y = classes(count, draw)
        return Batch(graphs(count, draw, y), y)


@settings
class Nodes(Trees):
    """Graphs whose targets are a tree: labels of some nodes, and a weight."""

    about: ClassVar[str] = "labelled nodes, for tests"
    recipes: ClassVar[Recipes] = RECIPES
    seed: int = 0

    def problem(self) -> Problem:
        metric = Metric("accuracy", "1", "higher", 0.0, node_accuracy)
        return Problem(NodeNetwork, node_loss, (metric,))

    def batch(self, count: int, draw: Callable[..., Tensor]) -> Batch:
        y = classes(count, draw)
        x = graphs(count, draw, y)
        labels = torch.where(x["mask"] > 0, y[:, None], -100)
        return Batch(x, {"labels": labels, "weight": 0.5 + draw("weight", count)})


@settings
class Sequences(Trees):
    """Short sequences of tokens, with dropout from declared noise."""

    about: ClassVar[str] = "sequences of tokens, for tests"
    recipes: ClassVar[Recipes] = RECIPES
    seed: int = 0

    def problem(self) -> Problem:
        return Problem(
            Recurrent, cross_entropy, (ACCURACY,), classes=3,
            draws={"mask": Draw((6,), "uniform")},
        )  # fmt: skip

    def batch(self, count: int, draw: Callable[..., Tensor]) -> Batch:
        y = classes(count, draw)
        tokens = (4 * draw("tokens", count, LENGTH)).long() + 3 * y[:, None]
        return Batch(tokens, y)


@settings
class Rollouts(Trees):
    """Episodes of a policy: noise of its actions, and a parameter of the environment."""

    about: ClassVar[str] = "episodes of a policy, for tests"
    recipes: ClassVar[Recipes] = RECIPES
    seed: int = 0

    def problem(self) -> Problem:
        return Problem(Policy, cross_entropy, (ACCURACY,), classes=3)

    def batch(self, count: int, draw: Callable[..., Tensor]) -> Batch:
        y = classes(count, draw)
        x = {
            "noise": 2 * draw("noise", count, HORIZON, 2) - 1,
            "drag": 0.1 + 0.3 * y[:, None].double(),
        }
        return Batch(x, y)


SCENARIOS: dict[str, Any] = {
    "graphs": Graphs,
    "nodes": Nodes,
    "sequences": Sequences,
    "rollouts": Rollouts,
}
