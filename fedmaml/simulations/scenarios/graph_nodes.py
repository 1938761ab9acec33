"""Graph nodes: name the nodes of a graph that was never seen, from a few of its labels.

A graph is a client. ``data = "blocks"``: 60 nodes in three blocks, edges with probability .2 within
and .05 between, features .6 mu_c + noise N(0, I_8) with the same mu_c in all graphs; but a block's
*name* is drawn per graph, so no pooled model can know it (chance 1/3), and ``shots`` named nodes of
each block say it. ``permuted = False`` gives blocks the same names everywhere. "cora" and
"citeseer": communities of citation graphs, of which 8 papers' classes are known.

One example is a whole graph: features, A_hat and labels; the support has the labels of the support
nodes (-100 elsewhere), the query those of all others. The network is

    A_hat relu(A_hat X W) V,     A_hat = D^-1/2 (A + I) D^-1/2

of `systems.graphs`. In communities, label propagation is the rule to beat: most of them are
nearly one class. Graphs as tasks: Huang, Zitnik. Graph Meta Learning via Local Subgraphs. NeurIPS
2020. arXiv:2006.07889.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations.datasets import planetoid
from fedmaml.simulations.dealing import deal, numbered
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import graphs

BLOCKS, BLOCK, FEATURES = 3, 20, 8
_WITHIN, _BETWEEN, _SIGNAL = 0.2, 0.05, 0.6
_LABELS, _PADDED = 8, 160  # of a community: labels that are known, nodes with those that are none
_META = {"inner.lr": 0.3, "inner.steps": 5, "outer.lr": 0.01, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.3, "adaptation.steps": 30}  # fmt: skip


@settings
class GraphNodes(Scenario):
    """Classes of nodes in graphs that were never seen.

    Attributes:
        seed: Determines graphs, who trains, and which nodes are named.
        data: "blocks", made up, or communities of "cora" or "citeseer".
        train_clients: Graphs that train, of blocks.
        validation_clients: Graphs for evaluation during training, of blocks.
        test_clients: Graphs for the final evaluation, of blocks.
        shots: Named nodes of each block.
        noise: Standard deviation of the features around their block's mean.
        permuted: Whether names of blocks are drawn per graph.
        hidden: Width of the hidden layer.
        data_dir: Folder with the data, see `datasets.planetoid.communities`.
    """

    about: ClassVar[str] = "nodes of unseen graphs: random blocks, or Cora and Citeseer (real)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 300, "clients": 20},
        "local": {"rounds": 0, "inner.lr": 0.3, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.01,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "maml": _META, "fomaml": _META, "meta_sgd": _META, "anil": _META,
    }  # fmt: skip
    only_with: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = dict.fromkeys(
        ("train_clients", "validation_clients", "test_clients", "shots", "noise", "permuted"),
        ("data", ("blocks",)),
    )

    seed: int = 0
    data: Literal["blocks", "cora", "citeseer"] = "blocks"
    train_clients: Annotated[int, Gt(0)] = 600
    validation_clients: Annotated[int, Ge(0)] = 50
    test_clients: Annotated[int, Gt(0)] = 100
    shots: Annotated[int, Gt(0), Le(BLOCK - 1)] = 1
    noise: Annotated[float, Ge(0)] = 2.0
    permuted: bool = True
    hidden: Annotated[int, Ge(1)] = 16
    data_dir: str = ""

    def problem(self) -> Problem:
        inputs = FEATURES if self.data == "blocks" else planetoid.WORDS
        metric = Metric("accuracy", "1", "higher", 0.0, graphs.node_accuracy, least=0, most=1)
        return Problem(
            lambda: graphs.GCN(inputs, self.hidden, self._classes()), graphs.node_loss, (metric,)
        )

    def clients(self) -> dict[Split, range]:
        if self.data == "blocks":
            return numbered(self.train_clients, self.validation_clients, self.test_clients)
        return deal(len(planetoid.communities(self.data, self.data_dir)))

    def max_examples(self, client: int) -> int:
        return 2

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        at = round if split == "train" else 0
        return group_by_shape({client: self._task(split, client, at) for client in clients})

    def left_out(self) -> Mapping[str, str]:
        return {} if self.data == "blocks" else planetoid.left_out(self.data, self.data_dir)

    def references(self) -> tuple[Reference, ...]:
        return graphs.commonest_label(self._classes()), graphs.label_propagation(self._classes())

    def _classes(self) -> int:
        return BLOCKS if self.data == "blocks" else planetoid.CLASSES[self.data]

    def _task(self, split: Split, client: int, round: int) -> Task:
        draw = seeding.key(self.seed, "graph_nodes", "labels", split, round)
        if self.data == "blocks":
            nodes, edges, y = self._blocks(client)
            order = seeding.permutation(draw, [client], BLOCK, BLOCKS)[0]
            first = BLOCK * torch.arange(BLOCKS)[:, None]
            chosen = (first + order[:, : self.shots]).flatten()
        else:
            parts = planetoid.communities(self.data, self.data_dir)
            deals = seeding.permutation(seeding.key(self.seed, "graph_nodes"), [0], len(parts))
            nodes, edges, y = parts[int(deals[0, client])]
            known = (y != graphs.NONE).nonzero()[:, 0]
            order = seeding.permutation(draw, [client], len(known))[0]
            chosen = known[order[:_LABELS]]
            nodes = F.pad(nodes, (0, 0, 0, _PADDED - len(nodes)))
            y = F.pad(y, (0, _PADDED - len(y)), value=graphs.NONE)
        x = {"nodes": nodes[None], "near": graphs.near(edges, len(nodes))[None]}
        named = torch.zeros(len(y), dtype=torch.bool)
        named[chosen] = True
        return Task(
            Batch(x, torch.where(named, y, graphs.NONE)[None]),
            Batch(x, torch.where(named, graphs.NONE, y)[None]),
        )

    def _blocks(self, client: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, edges and names of the nodes of one graph, block after block."""
        count = BLOCKS * BLOCK
        key = seeding.key(self.seed, "graph_nodes", "blocks")
        means = seeding.normal(key, [0], BLOCKS, FEATURES)[0]
        block = torch.arange(BLOCKS).repeat_interleave(BLOCK)
        noise = seeding.normal(seeding.key(key, "features"), [client], count, FEATURES)[0]
        chance = torch.where(block[:, None] == block, _WITHIN, _BETWEEN)
        drawn = seeding.uniform(seeding.key(key, "edges"), [client], count, count)[0]
        edges = (drawn < chance).triu(1).nonzero()
        names = seeding.permutation(seeding.key(key, "names"), [client], BLOCKS)[0]
        y = names[block] if self.permuted else block
        return _SIGNAL * means[block] + self.noise * noise, edges, y
