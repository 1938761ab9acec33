"""The network of some clients, all of which start at theta: images one by one, the rest at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmaml.computing.engines.base import Job
from fedmaml.computing.engines.factored import images
from fedmaml.computing.engines.factored.first_block import Patches
from fedmaml.computing.engines.factored.linear import Inner, LinearOfAll, StepRule, kind_of
from fedmaml.computing.engines.factored.updates import Formed, Piece
from fedmaml.computing.engines.layers import (
    BatchNorm2d,
    Conv2d,
    Elementwise,
    Flatten,
    GroupNorm,
    ImageLayer,
    Layer,
    Linear,
    MaxPool2d,
    layers_of,
    names_of,
)
from fedmaml.core.learner import Learner
from fedmaml.core.params import Params, map_params, subtract
from fedmaml.core.tasks import Batch


@dataclass(frozen=True)
class Chain:
    """A network in two parts.

    Attributes:
        images: Layers on images, computed client by client; may be none.
        tail: Linear layers and activations, computed for all clients together.
    """

    images: tuple[ImageLayer, ...]
    tail: tuple[Linear | Elementwise, ...]


def chain_of(learner: Learner) -> Chain | str:
    """Return a learner's network in two parts, or why that cannot be."""
    layers = layers_of(learner.network)
    if isinstance(layers, str):
        return f"the network is not a chain of layers: {layers}"
    parts = split(layers)
    if isinstance(parts, str):
        return parts
    first, tail = parts
    if not tail or not isinstance(tail[0], Linear):
        return "it has no linear layer, or an activation before the first"
    return Chain(first, tail)


def split(
    layers: tuple[Layer, ...],
) -> tuple[tuple[ImageLayer, ...], tuple[Linear | Elementwise, ...]] | str:
    """Return layers on images, and those after them, or why they are not in that order."""
    layers = images.pooled_first(layers)
    on_images = [
        i
        for i, layer in enumerate(layers)
        if isinstance(layer, Conv2d | BatchNorm2d | GroupNorm | MaxPool2d)
    ]
    cut = on_images[-1] + 1 if on_images else 0
    first = [layer for layer in layers[:cut] if isinstance(layer, ImageLayer)]
    if len(first) < cut:
        return "a linear layer comes before one on images"
    rest = list(layers[cut:])
    while first and rest and isinstance(rest[0], Elementwise):
        first.append(rest[0])
        del rest[0]
    if first and (not rest or not isinstance(rest[0], Flatten)):
        return "its images are not flattened"
    return tuple(first), tuple(part for part in rest if isinstance(part, Linear | Elementwise))


def kind_in(chain: Chain, layer: Linear, steps: int, rows: int) -> type[LinearOfAll]:
    """Return how a linear layer of the tail is computed, given the examples of a step."""
    return kind_of(layer, steps, rows, layer is chain.tail[0] and not chain.images)


class Network:
    """The network of some clients; all of them start at theta."""

    def __init__(self, job: Job, chain: Chain, rule: StepRule, rows: int) -> None:
        theta = job.meta["theta"]
        self._loss, self._pace = job.learner.problem.loss, rule
        self._layers = images.in_blocks(chain.images)
        self._theta = {
            name: images.channels_last(theta[name]) if theta[name].dim() == 4 else theta[name]
            for layer in chain.images
            for name in names_of(layer)
        }
        self._own: list[Params] = []  # of each client; none: still theta
        self._gradients: list[Params] = []
        self._kept: list[images.Kept] = []
        self._prepared: dict[int, tuple[Tensor, list[Tensor | Patches]]] = {}  # by id
        self._image = torch.Size()
        self._outputs: list[Tensor] = []
        self._tail: list[LinearOfAll | Elementwise] = [
            kind_in(chain, layer, rule.steps, rows)(layer, theta, rule)
            if isinstance(layer, Linear)
            else layer
            for layer in chain.tail
        ]

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each client's mean loss, and its derivative by the network's outputs."""
        x = self._features(batch.x) if self._layers else batch.x
        self._outputs = []
        for part in self._tail:
            if isinstance(part, LinearOfAll):
                x = part.forward(x)
            else:
                x = images.activated(part.function, x)
            self._outputs.append(x)
        outputs = x.flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            each = self._loss(outputs, batch.y.flatten(0, 1))
            if each.shape != outputs.shape[:1]:
                raise ValueError(f"the loss returned shape {tuple(each.shape)}")
            (e,) = torch.autograd.grad(each.sum() / x.shape[1], outputs)
        return each.detach().view(x.shape[:2]).mean(1), e.view(x.shape)

    def backward(self, e: Tensor) -> None:
        """Take the derivative by the outputs, and find what `step` and `gradient` need."""
        for part, y in zip(reversed(self._tail), reversed(self._outputs), strict=True):
            if isinstance(part, Elementwise):
                e = images.through(part.function, e, y)
            elif isinstance(part, Inner) and (self._layers or part is not self._tail[0]):
                e = part.backward(e)
            else:
                part.keep(e)
        if self._layers:
            self._gradients = [
                images.backward(self._layers, self._fast(client), kept, of_client)[1]
                for client, (kept, of_client) in enumerate(
                    zip(self._kept, e.view(*e.shape[:2], *self._image), strict=True)
                )
            ]
            self._kept = []

    def step(self) -> None:
        """Move all fast weights against the gradient."""
        for part in self._tail:
            if isinstance(part, LinearOfAll):
                part.step()
        self._own = [
            map_params(self._pace.moved, self._fast(client), self._theta, gradient)
            for client, gradient in enumerate(self._gradients)
        ]

    def gradient(self) -> list[Piece]:
        """Return the gradient by the fast weights."""
        pieces: list[Piece] = _formed(self._gradients)
        for part in self._tail:
            if isinstance(part, LinearOfAll):
                pieces += part.gradient()
        return pieces

    def difference(self) -> list[Piece]:
        """Return theta - phi."""
        own = self._own or [self._theta] * len(self._gradients)
        pieces: list[Piece] = _formed([subtract(self._theta, params) for params in own])
        for part in self._tail:
            if isinstance(part, LinearOfAll):
                pieces += part.difference()
        return pieces

    def _fast(self, client: int) -> Params:
        return self._own[client] if self._own else self._theta

    def _features(self, x: Tensor) -> Tensor:
        self._kept = []
        features = []
        if id(x) not in self._prepared:
            each = [images.prepared(self._layers, self._theta, one) for one in x]
            self._prepared[id(x)] = x, each
        for client, of_client in enumerate(self._prepared[id(x)][1]):
            image, kept = images.forward(self._layers, self._fast(client), of_client)
            self._kept.append(kept)
            features.append(image.flatten(1))
            self._image = image.shape[1:]
        return torch.stack(features)


def _formed(each: list[Params]) -> list[Piece]:
    """Stack the clients' parameters."""
    names = each[0] if each else ()
    return [Formed(name, torch.stack([params[name] for params in each])) for name in names]
