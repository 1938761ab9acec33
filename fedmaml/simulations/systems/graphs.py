"""Graphs whose nodes have labels: a network, its loss and metric, and references.

    A_hat relu(A_hat X W) V,     A_hat = D^-1/2 (A + I) D^-1/2

One example is a graph, ``{"nodes": X, "near": A_hat}``; its targets are the labels of its nodes,
-100 where there is none. Kipf, Welling. Semi-Supervised Classification with Graph Convolutional
Networks. ICLR 2017, equation 9. arXiv:1609.02907.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core.learner import Predictor
from fedmaml.core.losses import IGNORED
from fedmaml.core.tasks import Batch
from fedmaml.core.trees import Tree
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients

NONE = IGNORED
"""The label of a node without one."""

_SWEEPS = 30


class GCN(nn.Module):
    """Two graph convolutions; equation in the module docstring."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(inputs, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, graph: Mapping[str, Tensor]) -> Tensor:
        """Map graphs ``(examples, nodes, ..)`` to logits ``(examples, nodes, classes)``."""
        near = graph["near"]
        output: Tensor = near @ self.head(torch.relu(near @ self.body(graph["nodes"])))
        return output


def near(edges: Tensor, nodes: int) -> Tensor:
    """Return A_hat = D^-1/2 (A + I) D^-1/2, float64 ``(nodes, nodes)``; a lone node is its own."""
    matrix = torch.eye(nodes, dtype=torch.float64)
    matrix[edges[:, 0], edges[:, 1]] = matrix[edges[:, 1], edges[:, 0]] = 1
    scale = matrix.sum(1).rsqrt()
    return scale[:, None] * matrix * scale


def node_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross entropy over the labelled nodes of each graph, ``(examples,)``."""
    known = y != NONE
    losses = -F.log_softmax(logits, -1).gather(-1, torch.where(known, y, 0)[..., None])[..., 0]
    return torch.where(known, losses, 0).sum(-1) / known.sum(-1)


def node_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the fraction of the labelled nodes that are named right."""
    return ((logits.argmax(-1) == y).sum() / (y != NONE).sum()).to(logits.dtype)


def commonest_label(classes: int) -> Reference:
    """Return the commonest label of the known nodes."""

    def fit(_clients: TrainingClients) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            share = _known(support, classes).sum(0)
            return lambda x: share.expand(*x["nodes"].shape[:2], -1).float()

        return adapt

    return Reference("commonest label", "the commonest label of the known nodes", fit)


def label_propagation(classes: int) -> Reference:
    """Return known labels that spread along edges; they themselves stay.

    Zhu, Ghahramani. Learning from Labeled and Unlabeled Data with Label Propagation. 2002.
    """

    def fit(_clients: TrainingClients) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            fixed = _known(support, classes)
            labelled = (fixed.sum(1) > 0)[:, None]

            def predict(x: Tree) -> Tensor:
                matrix, spread = x["near"][0].double(), fixed
                for _ in range(_SWEEPS):
                    spread = torch.where(labelled, fixed, matrix @ spread)
                return spread[None].float()

            return predict

        return adapt

    return Reference("label propagation", "known labels spread along edges, thirty times", fit)


def _known(support: Batch, classes: int) -> Tensor:
    """Return one-hot labels of the known nodes, 0 for the others, ``(nodes, classes)``."""
    y: Tensor = support.y[0]
    return F.one_hot(y.clamp(min=0), classes).double() * (y != NONE)[:, None]
