"""`factored`: first-order training of large networks, with as little per client as will do.

Linear layers are computed for all clients together (`factored_linear`), convolutions client by
client in the layout that suits the machine (`factored_images`). An update is formed a few rows of
a weight at a time and added at once, so no memory grows with clients times parameters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from fedmaml.client.engines import factored_images as images
from fedmaml.client.engines.base import Engine, Job, Memories, Rows, Total, select
from fedmaml.client.engines.factored_linear import (
    Formed,
    LinearOfAll,
    LowRank,
    Pace,
    Piece,
    kind_of,
    squared_norm_of_rest,
)
from fedmaml.client.engines.layers import (
    BatchNorm2d,
    Conv2d,
    Elementwise,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    layers_of,
    names_of,
)
from fedmaml.client.engines.recipes import NO_RECIPE, Recipe, recipe_of
from fedmaml.core import losses
from fedmaml.core.aggregation import LIMIT, ExactSum, empty_sum, exact_sum
from fedmaml.core.learner import Learner
from fedmaml.core.params import Params, count_entries, map_params, squared_norm, subtract
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.strategies.base import ClientUpdate

_LOSSES = (
    losses.cross_entropy,
    losses.binary_cross_entropy,
    losses.squared_error,
    losses.half_squared_error,
)
_CACHE_BYTES = 8 * 2**20
_MEMORY_BYTES = 256 * 2**20
_ROWS = 1024  # of a shared product; it gets no faster with more
_WORTHWHILE_ENTRIES = 8_000


@dataclass(frozen=True)
class _Chain:
    """A network in two parts.

    Attributes:
        images: Layers on images, computed client by client; may be none.
        tail: Linear layers and activations, computed for all clients together.
    """

    images: tuple[Layer, ...]
    tail: tuple[Linear | Elementwise, ...]


class Factored(Engine):
    """Large networks: shared products, a few rows of an update at a time."""

    name: ClassVar[str] = "factored"
    about: ClassVar[str] = "large networks, first order; fast weights of linear layers in factors"

    def refusal(self, job: Job) -> str:
        recipe = recipe_of(job.strategy)
        if recipe is None:
            return NO_RECIPE
        if recipe.sends == "exact":
            return "it drops second derivatives, and maml needs them"
        if job.learner.problem.loss not in _LOSSES:
            return "the loss is none of those in fedmaml.core.losses"
        chain = _chain(job.learner)
        if isinstance(chain, str):
            return chain
        device = next(iter(job.meta["theta"].values())).device
        return "" if device.type == "cpu" else f"the parameters are on {device}, not on the CPU"

    def objection(self, job: Job) -> str:
        """Say that small convolutions are faster for many clients at once.

        Two convolutions and a linear layer on images of 8 x 8, 2,000 parameters: 2.1 ms a client,
        vmap 1.0; 28 x 28, 9,000 parameters: 3.3 and 3.9; 16 x 16, 10,000: 6.0 and 7.4. Linear
        layers alone are at least as fast as under vmap from 500 parameters on.
        """
        chain = _chain(job.learner)
        entries = count_entries(job.meta)
        if isinstance(chain, _Chain) and chain.images and entries < _WORTHWHILE_ENTRIES:
            return (
                f"convolutions client by client do not pay below {_WORTHWHILE_ENTRIES:,} parameters"
            )
        return ""

    def client_batch(self, job: Job) -> int:
        """Return how many clients' tasks are made at a time; fewer are computed at a time."""
        return 256

    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield one sum of all clients, or the updates of as many as are computed at a time."""
        recipe, chain = recipe_of(job.strategy), _chain(job.learner)
        if recipe is None or isinstance(chain, str):
            raise ValueError(self.refusal(job))
        total = _Sum(job.meta["theta"])
        for group in groups:
            size = _clients_at_a_time(job, recipe, chain, group.tasks)
            for first in range(0, len(group.clients), size):
                part = select(group, range(first, min(first + size, len(group.clients))))
                sent = _send(job, recipe, chain, part.tasks)
                if job.form == "stack":
                    yield _rows(job, part, sent)
                else:
                    total.add(part.clients, sent)
        if job.form == "sum":
            yield total.result()


def _chain(learner: Learner) -> _Chain | str:
    """Return a learner's network in two parts, or why that cannot be."""
    layers = layers_of(learner.network)
    if isinstance(layers, str):
        return f"the network is not a chain of layers: {layers}"
    layers = images.pooled_first(layers)
    on_images = [
        i for i, layer in enumerate(layers) if isinstance(layer, Conv2d | BatchNorm2d | MaxPool2d)
    ]
    cut = on_images[-1] + 1 if on_images else 0
    if any(isinstance(layer, Linear | Flatten) for layer in layers[:cut]):
        return "a linear layer comes before one on images"
    rest = list(layers[cut:])
    while cut and rest and isinstance(rest[0], Elementwise):
        cut += 1
        del rest[0]
    if cut and (not rest or not isinstance(rest[0], Flatten)):
        return "its images are not flattened"
    tail = tuple(layer for layer in rest if isinstance(layer, Linear | Elementwise))
    if not tail or not isinstance(tail[0], Linear):
        return "it has no linear layer, or an activation before the first"
    return _Chain(layers[:cut], tail)


# --- the computation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sent:
    """What some clients send.

    Attributes:
        pieces: Updates, not all of them formed, in the order of theta.
        weight: float64, ``(clients,)``.
        metrics: name -> ``(clients,)``.
    """

    pieces: list[Piece]
    weight: Tensor
    metrics: dict[str, Tensor]


@torch.no_grad()
def _send(job: Job, recipe: Recipe, chain: _Chain, tasks: Task) -> _Sent:
    """Do what the strategy's `client_update` does, for clients of equal shape."""
    theta, l2 = job.meta["theta"], job.learner.problem.l2
    pace = Pace.of(recipe, l2)
    if recipe.sends == "difference":
        judged = trains = _prepared(chain, _joined(tasks))
    else:
        judged, trains = (_prepared(chain, batch) for batch in (tasks.query, tasks.support))
    network = _Network(job, chain, pace, trains.y.shape[1])
    seen = [] if judged is trains else [network.loss(judged)[0]]
    for _ in range(recipe.steps):
        value, e = network.loss(trains)
        seen.append(value)
        network.backward(e)
        network.step()
    value, e = network.loss(judged)
    if recipe.sends != "difference" or not recipe.steps:
        network.backward(e)
    before, after = (*seen, value)[0], value
    pieces = network.difference() if recipe.sends == "difference" else network.gradient()
    if recipe.sends == "difference" and l2:
        before = before + l2 * squared_norm(theta)
        for piece in pieces:
            after = after + l2 * squared_norm_of_rest(piece, theta[piece.name])
    clients, rows = judged.y.shape[:2]
    weight = torch.full((clients,), float(rows), dtype=torch.float64)
    return _Sent(pieces, weight, {"loss_before": before, "loss_after": after})


class _Network:
    """The network of some clients; all of them start at theta."""

    def __init__(self, job: Job, chain: _Chain, pace: Pace, rows: int) -> None:
        theta = job.meta["theta"]
        self._loss, self._pace = job.learner.problem.loss, pace
        self._layers = images.in_blocks(chain.images)
        self._theta = {
            name: images.channels_last(theta[name]) if theta[name].dim() == 4 else theta[name]
            for layer in chain.images
            for name in names_of(layer)
        }
        self._own: list[Params] = []  # of each client; none: still theta
        self._gradients: list[Params] = []
        self._kept: list[images.Kept] = []
        self._image = torch.Size()
        self._outputs: list[Tensor] = []
        self._tail: list[LinearOfAll | Elementwise] = [
            _kind(layer, chain, pace.steps, rows)(layer, theta, pace)
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
            elif part is self._tail[0] and not self._layers:
                part.keep(e)
            else:
                e = part.backward(e)
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
        for client, of_client in enumerate(x):
            image, kept = images.forward(self._layers, self._fast(client), of_client)
            self._kept.append(kept)
            features.append(image.flatten(1))
            self._image = image.shape[1:]
        return torch.stack(features)


def _formed(each: list[Params]) -> list[Piece]:
    """Stack the clients' parameters."""
    names = each[0] if each else ()
    return [Formed(name, torch.stack([params[name] for params in each])) for name in names]


def _joined(tasks: Task) -> Batch:
    support, query = tasks
    return Batch(torch.cat([support.x, query.x], 1), torch.cat([support.y, query.y], 1))


def _prepared(chain: _Chain, batch: Batch) -> Batch:
    """Return examples as the first layer wants them."""
    return batch if chain.images else Batch(batch.x.flatten(2), batch.y)


# --- how much at a time --------------------------------------------------------------------------


def _kind(layer: Linear, chain: _Chain, steps: int, rows: int) -> type[LinearOfAll]:
    return kind_of(layer, steps, rows, layer is chain.tail[0] and not chain.images)


def _clients_at_a_time(job: Job, recipe: Recipe, chain: _Chain, tasks: Task) -> int:
    """Return how many clients stay in cache, or else keep shared products busy within memory."""
    theta, rows = job.meta["theta"], [batch.y.shape[1] for batch in tasks]
    if recipe.sends == "difference":
        rows = [sum(rows)] * 2
    entries, busy = 0, 1
    for layer in chain.tail:
        if isinstance(layer, Linear):
            kind = _kind(layer, chain, recipe.steps, rows[0])
            entries += kind.entries(layer, recipe.steps, rows[0])
            entries += 3 * max(rows) * (layer.inputs + layer.outputs)
            if kind is LowRank:
                busy = -(-_ROWS // max(rows))
    held = entries * next(iter(theta.values())).element_size()
    if chain.images:
        held += images.bytes_kept(chain.images, theta, tasks.query.x[0, :1]) * max(rows)
        own = [theta[name] for layer in chain.images for name in names_of(layer)]
        held += 3 * sum(value.nbytes for value in own)
    return max(1, _CACHE_BYTES // held, min(busy, _MEMORY_BYTES // held))


# --- the results ---------------------------------------------------------------------------------


def _rows(job: Job, group: TaskGroup, sent: _Sent) -> Rows:
    pieces = {piece.name: piece for piece in sent.pieces}
    update = {
        name: torch.cat(list(pieces[name].tiles()), 1).view(-1, *value.shape)
        for name, value in job.meta["theta"].items()
    }
    return Rows(group.clients, ClientUpdate({"theta": update}, sent.weight, sent.metrics, {}))


class _Sum:
    """The weighted sum of updates, to which they are added a few rows of a weight at a time.

    A client whose update may have a number out of range is left out before any is added. It is
    judged by a bound: the caller computes such clients once more, in another way, and finds out.
    """

    def __init__(self, theta: Params) -> None:
        sizes = [value.numel() for value in theta.values()]
        self._start = dict(zip(theta, accumulate(sizes, initial=0), strict=False))
        self._limbs = empty_sum(sum(sizes)).limbs
        self._parts: list[_Sent] = []
        self._clients: list[int] = []
        self._unsound: list[int] = []

    def add(self, clients: Sequence[int], sent: _Sent) -> None:
        """Take in some clients."""
        bounds = torch.stack([piece.bound() for piece in sent.pieces]).amax(0)
        sound = bounds.to(torch.float64) * sent.weight < LIMIT / 2  # False for NaN
        weight = sent.weight[sound]
        everyone = len(weight) == len(clients)
        if len(weight):
            for piece in sent.pieces:
                first = self._start[piece.name]
                for tile in piece.tiles():
                    added = exact_sum(tile if everyone else tile[sound], weight)
                    self._limbs[:, first : first + tile.shape[1]] += added.limbs
                    first += tile.shape[1]
        metrics = {name: values[sound] for name, values in sent.metrics.items()}
        self._parts.append(_Sent([], weight, metrics))
        for client, usable in zip(clients, sound.tolist(), strict=True):
            (self._clients if usable else self._unsound).append(client)

    def result(self) -> Total:
        """Return the sum of all that were taken in."""
        weight = torch.cat([part.weight for part in self._parts])
        metrics = {
            name: torch.cat([part.metrics[name] for part in self._parts])
            for name in self._parts[0].metrics
        }
        total = ExactSum(self._limbs, float(weight.sum()), len(weight))
        return Total(tuple(self._clients), weight, metrics, {"theta": total}, tuple(self._unsound))
