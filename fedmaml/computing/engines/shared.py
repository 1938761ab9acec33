"""`shared`: metric-based strategies, whose clients all embed with the same weights.

A strategy that adapts by comparison (`strategies.comparing.by_comparison`) has no fast weights. So
the examples of all clients go through theta in one product for each layer; only the comparison is
each client's own, and so is the gradient: with H a layer's inputs and E the derivatives by its
outputs, E' H is formed client by client. Convolutions are computed client by client.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml.computing.engines.base import (
    Engine,
    Job,
    Memories,
    Rows,
    Total,
    batch_for_weights,
    stacked_memory,
)
from fedmaml.computing.engines.factored import images
from fedmaml.computing.engines.factored.network import split
from fedmaml.computing.engines.layers import Elementwise, ImageLayer, Linear, layers_of
from fedmaml.core.params import MetaParams, Params, device_of, map_params
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.strategies.base import ClientUpdate
from fedmaml.strategies.comparing import LEARNED, Compares, by_comparison
from fedmaml.strategies.parts import meta_update

Parts = tuple[tuple[ImageLayer, ...], tuple[Linear | Elementwise, ...]]


class Shared(Engine):
    """All clients' examples through shared weights at once."""

    name: ClassVar[str] = "shared"

    def why_unsupported(self, job: Job) -> str:
        verbs = vars(type(job.strategy))
        if verbs.get("adapt") is not by_comparison or verbs.get("client_update") is not meta_update:
            return f"{job.strategy.facts.label} does not adapt by comparison alone"
        if job.strategy.facts.draws:
            return f"{job.strategy.facts.label} draws noise, of which it knows nothing"
        parts = parts_of(job)
        if isinstance(parts, str):
            return parts
        device = device_of(job.meta)
        return "" if device.type == "cpu" else f"the parameters are on {device}, not on the CPU"

    def why_slow(self, job: Job) -> str:
        return ""

    def client_batch(self, job: Job) -> int:
        """Return how many clients' gradients fit into memory."""
        return batch_for_weights(job.learner)

    @torch.no_grad()
    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield one group at a time."""
        parts = parts_of(job)
        if isinstance(parts, str):
            raise ValueError(parts)
        for group in groups:
            update, losses = _gradient(job, parts, group.tasks)
            rows = float(group.tasks.query.y.shape[1])
            weight = torch.full_like(losses, rows, dtype=torch.float64)
            memory = stacked_memory(group, memories)
            yield Rows(group.clients, ClientUpdate(update, weight, {"loss_after": losses}, memory))


def parts_of(job: Job) -> Parts | str:
    """Return the embedding's layers on images and those after, or why it has none."""
    layers = layers_of(job.learner.network)
    if isinstance(layers, str):
        return f"the network is not a chain of layers: {layers}"
    return split(layers)


def _gradient(job: Job, parts: Parts, tasks: Task) -> tuple[MetaParams, Tensor]:
    """Return each client's gradient, and the losses."""
    theta = job.meta["theta"]
    embeddings = [_Embedding(parts, theta, batch.x) for batch in tasks]
    outputs = [embedding.outputs.requires_grad_() for embedding in embeddings]
    clients = len(outputs[0])
    learned = {
        name: value.expand(clients, *value.shape).contiguous().requires_grad_()
        for name, value in job.meta.get(LEARNED, {}).items()
    }
    together: Callable[..., Tensor] = torch.func.vmap(_loss_of(job))
    with torch.enable_grad():
        losses = together(learned, *outputs, tasks.support.y, tasks.query.y)
        slopes = torch.autograd.grad(losses.sum(), [*outputs, *learned.values()])
    of_support, of_query = (
        embedding.gradient(e) for embedding, e in zip(embeddings, slopes[:2], strict=True)
    )
    found = map_params(torch.add, of_support, of_query)
    update = {"theta": {name: found[name] for name in theta}}
    if learned:
        update[LEARNED] = dict(zip(learned, slopes[2:], strict=True))
    return update, losses.detach()


def _loss_of(job: Job) -> Callable[[Params, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the function (learned, embedded support and query, their targets) -> loss."""
    learner, strategy = job.learner, cast(Compares, job.strategy)

    def loss(learned: Params, support: Tensor, query: Tensor, y: Tensor, query_y: Tensor) -> Tensor:
        predictor = partial(strategy.compare, learner.problem, learned, Batch(support, y))
        return learner.query_loss(predictor, Batch(query, query_y))

    return loss


class _Embedding:
    """The embeddings of one batch of every client."""

    def __init__(self, parts: Parts, theta: Params, x: Tensor) -> None:
        layers, self._tail = parts
        self._layers, self._theta = images.in_blocks(layers), theta
        self._kept: list[images.Kept] = []
        self._image = torch.Size()
        x = self._features(x) if layers else x.flatten(2)
        self._values = [x]
        for layer in self._tail:
            if isinstance(layer, Linear):
                x = F.linear(x, theta[layer.weight], theta[layer.bias] if layer.bias else None)
            else:
                x = x.relu() if layer.function == "relu" else x.tanh()
            self._values.append(x)
        self.outputs = x.flatten(2).detach()

    def _features(self, x: Tensor) -> Tensor:
        features = []
        for of_client in x:
            ready = images.prepared(self._layers, self._theta, of_client)
            image, kept = images.forward(self._layers, self._theta, ready)
            self._kept.append(kept)
            self._image = image.shape[1:]
            features.append(image.flatten(1))
        return torch.stack(features)

    def gradient(self, e: Tensor) -> Params:
        """Return each client's gradient, given the derivative by its embeddings."""
        found: Params = {}
        e = e.contiguous().view(self._values[-1].shape)
        for i in range(len(self._tail) - 1, -1, -1):
            layer = self._tail[i]
            if isinstance(layer, Elementwise):
                e = images.through(layer.function, e, self._values[i + 1])
                continue
            found[layer.weight] = e.mT @ self._values[i]
            if layer.bias:
                found[layer.bias] = e.sum(1)
            if i or self._layers:
                e = e @ self._theta[layer.weight]
        if self._layers:
            each = [
                images.backward(self._layers, self._theta, kept, of_client.view(-1, *self._image))[
                    1
                ]
                for kept, of_client in zip(self._kept, e, strict=True)
            ]
            for name in (name for layer in self._layers for name in images.names_in(layer)):
                found[name] = torch.stack([gradient[name] for gradient in each])
        return found
