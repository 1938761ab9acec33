"""Second order for networks on images, one client after the other.

The gradients of the steps and of the query are those of `images`; what goes back through the steps
is a product of the Hessian with one vector for each, by plain autograd, on the support alone:

    g_k = grad L_query(phi_k)        g_t = g_{t+1} - lr * Hessian L_support(phi_t) g_{t+1}

The query, of which there usually is more, is never differentiated twice.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml.computing.engines.base import Job
from fedmaml.computing.engines.factored import images
from fedmaml.computing.engines.factored.block import Block
from fedmaml.computing.engines.factored.first_block import Patches
from fedmaml.computing.engines.layers import Elementwise, ImageLayer, Linear, names_of
from fedmaml.core.gradients import gradient
from fedmaml.core.kernels import KernelSpec
from fedmaml.core.learner import Learner
from fedmaml.core.params import Params, map_params
from fedmaml.core.tasks import Batch, Task, example_count
from fedmaml.strategies.base import ClientUpdate


class Examples(NamedTuple):
    """Images as `images.forward` wants them, and their targets."""

    x: Tensor | Patches
    y: Tensor


@dataclass(frozen=True)
class OneClient:
    """The network of one client.

    Attributes:
        learner: Network and loss.
        layers: On images.
        tail: After those.
    """

    learner: Learner
    layers: tuple[ImageLayer | Block, ...]
    tail: tuple[Linear | Elementwise, ...]

    def prepared(self, theta: Params, batch: Batch) -> Examples:
        """Lay examples out; they serve for any parameters."""
        return Examples(images.prepared(self.layers, theta, batch.x), batch.y)

    @torch.no_grad()
    def loss(self, params: Params, examples: Examples) -> Tensor:
        """Return the mean loss, without penalty."""
        return self._tail_loss(params, self._features(params, examples)[0].flatten(1), examples.y)

    @torch.no_grad()
    def gradient_and_loss(self, params: Params, examples: Examples) -> tuple[Params, Tensor]:
        """Return the gradient of the mean loss, without penalty, and the loss."""
        image, kept = self._features(params, examples)
        own = {name: params[name].detach() for layer in self.tail for name in names_of(layer)}
        features = image.flatten(1)
        with torch.enable_grad():
            variables = [value.requires_grad_() for value in (features, *own.values())]
            loss = self._tail_loss(own, features, examples.y)
            e, *slopes = torch.autograd.grad(loss, variables)
        found = images.backward(self.layers, _laid_out(params), kept, e.view(image.shape))[1]
        found |= dict(zip(own, slopes, strict=True))
        return {name: found[name] for name in params}, loss.detach()

    def _features(self, params: Params, examples: Examples) -> tuple[Tensor, images.Kept]:
        return images.forward(self.layers, _laid_out(params), examples.x)

    def _tail_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        for layer in self.tail:
            if isinstance(layer, Linear):
                bias = params[layer.bias] if layer.bias else None
                x = F.linear(x, params[layer.weight], bias)
            else:
                x = x.relu() if layer.function == "relu" else x.tanh()
        losses = self.learner.problem.loss(x, y)
        if losses.shape != y.shape[:1]:
            raise ValueError(f"the loss returned shape {tuple(losses.shape)}")
        return losses.mean()


def update_of(job: Job, spec: KernelSpec, client: OneClient, task: Task) -> ClientUpdate:
    """Compute the strategy's `client_update`."""
    theta, lr, l2 = job.meta["theta"], spec.inner.lr, job.learner.problem.l2
    support, query = (client.prepared(theta, batch) for batch in task)
    seen = task.support._replace(x=images.channels_last(task.support.x))

    def slope(phi: Params) -> Params:
        return gradient(lambda own: job.learner.loss(own, seen), phi)

    before = client.loss(theta, query)
    phi, points = theta, []
    for _ in range(spec.inner.steps):
        points.append(phi)
        step, _ = client.gradient_and_loss(phi, support)
        phi = map_params(lambda w, g: w - lr * (g + 2 * l2 * w if l2 else g), phi, step)
    sent, after = client.gradient_and_loss(phi, query)
    for point in reversed(points):
        along = sent

        def change(own: Params, along: Params = along) -> Tensor:
            pairs = zip(slope(own).values(), along.values(), strict=True)
            return torch.stack([(value * part).sum() for value, part in pairs]).sum()

        sent = map_params(lambda g, h: g - lr * h, sent, gradient(change, point))
    metrics = {"loss_before": before, "loss_after": after}
    return ClientUpdate({"theta": sent}, example_count(task.query), metrics, {})


def _laid_out(params: Params) -> Params:
    """Return convolutions' weights as they suit images with channels last."""
    return map_params(lambda w: images.channels_last(w) if w.dim() == 4 else w, params)
