"""Linear layers of many clients at once, whose fast weights all start at theta.

A step's gradient of a linear layer is E' H: H are its inputs and E the derivatives of the loss by
its outputs, with a row for each example. So after some steps a client's fast weights are

    W_phi = share * W - lr * E' H        b_phi = share * b - lr * E' 1

where E and H have the rows of all steps below one another, those of E times the decay since
(`StepRule`). While the rows are few, W_phi need not be formed:

    x W_phi' + b_phi = share * (x W' + b) - lr * (x H' + 1) E

is one product with W for the rows of all clients, and small products for each; no step forms a
gradient. In the first layer the inputs are the examples themselves, the same in every step: the
E's add up, and x W' and x H' are computed once.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml.computing.engines.factored.updates import Formed, Piece, Product
from fedmaml.computing.engines.layers import Linear
from fedmaml.core.kernels import KernelSpec
from fedmaml.core.params import Params


@dataclass(frozen=True)
class StepRule:
    """A step: phi <- decay * phi + pull * theta - lr * gradient of the loss without penalties.

    Attributes:
        steps: How many.
        lr: Step size.
        decay: 1 - lr * (2 * l2 + proximal).
        pull: lr * proximal.
    """

    steps: int
    lr: float
    decay: float
    pull: float

    @staticmethod
    def of(spec: KernelSpec, l2: float) -> "StepRule":
        """Return the rule of a spec's steps under a penalty ``l2 * ||phi||^2``."""
        decay = 1 - spec.inner.lr * (2 * l2 + spec.proximal)
        return StepRule(spec.inner.steps, spec.inner.lr, decay, spec.inner.lr * spec.proximal)

    def next_share(self, share: float) -> float:
        """Return theta's share in phi after one more step."""
        return self.decay * share + self.pull

    def moved(self, phi: Tensor, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return phi after a step."""
        if self.decay != 1:
            phi = self.decay * phi
        if self.pull:
            phi = torch.add(phi, theta, alpha=self.pull)
        return torch.add(phi, gradient, alpha=-self.lr)


class LinearOfAll(ABC):
    """A linear layer of all clients; `keep` or `backward` keep what `step` and `gradient` need."""

    def __init__(self, layer: Linear, theta: Params, rule: StepRule) -> None:
        self._names = layer.weight, layer.bias
        self._weight = theta[layer.weight]
        self._bias = None if layer.bias is None else theta[layer.bias]
        self._rule = rule
        self._share = 1.0
        self._x = self._e = torch.empty(0)

    @staticmethod
    @abstractmethod
    def entries(layer: Linear, steps: int, rows: int) -> int:
        """Return how many numbers it holds for each client, activations aside."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map ``(clients, rows, inputs)`` to ``(clients, rows, outputs)``."""

    @abstractmethod
    def step(self) -> None:
        """Move the fast weights against the gradient."""

    @abstractmethod
    def difference(self) -> list[Piece]:
        """Return theta - phi."""

    def keep(self, e: Tensor) -> None:
        """Take the derivative by the outputs, where that by the inputs is not wanted."""
        self._e = e

    def gradient(self) -> list[Piece]:
        """Return the gradient by the fast weights."""
        return self._pieces(self._e, self._x)

    def _pieces(
        self, left: Tensor, right: Tensor, scale: float = 1.0, theta_share: float = 0.0
    ) -> list[Piece]:
        weight, bias = self._names
        base = theta_share * self._weight if theta_share else None
        pieces: list[Piece] = [Product(weight, left, right, scale, base)]
        if bias is not None and self._bias is not None:
            sums = scale * left.sum(1)
            pieces.append(Formed(bias, sums + theta_share * self._bias if theta_share else sums))
        return pieces

    def _at_theta(self, x: Tensor) -> Tensor:
        """Return x W' + b, one product for the rows of all clients."""
        rows = x.flatten(0, 1)
        return F.linear(rows, self._weight, self._bias).view(*x.shape[:2], -1)

    def _with_bias(self, products: Tensor) -> Tensor:
        """Return x H' + 1; without the 1 if there is no bias."""
        return products if self._bias is None else products.add_(1)


class Inner(LinearOfAll):
    """One that may have others before it, which want the derivative by its inputs."""

    @abstractmethod
    def backward(self, e: Tensor) -> Tensor:
        """Take the derivative by the outputs and return that by the inputs."""


class LowRank(Inner):
    """A large layer: fast weights are never formed."""

    def __init__(self, layer: Linear, theta: Params, rule: StepRule) -> None:
        super().__init__(layer, theta, rule)
        self._older: list[tuple[float, Tensor, Tensor]] = []  # decay since, E and H of a step

    @staticmethod
    def entries(layer: Linear, steps: int, rows: int) -> int:
        return steps * rows * (layer.inputs + layer.outputs)

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        z = self._scaled(self._at_theta(x))
        for decay, left, right in self._older:
            products = self._with_bias(torch.bmm(x, right.mT))
            z.baddbmm_(products, left, alpha=-self._rule.lr * decay)
        return z

    def backward(self, e: Tensor) -> Tensor:
        self._e = e
        d = self._scaled((e.flatten(0, 1) @ self._weight).view(*e.shape[:2], -1))
        for decay, left, right in self._older:
            d.baddbmm_(torch.bmm(e, left.mT), right, alpha=-self._rule.lr * decay)
        return d

    def step(self) -> None:
        older = [(decay * self._rule.decay, left, right) for decay, left, right in self._older]
        self._older = [*older, (1.0, self._e, self._x)]
        self._share = self._rule.next_share(self._share)

    def difference(self) -> list[Piece]:
        if not self._older:
            return self._pieces(torch.zeros_like(self._e), self._x)
        left = torch.cat([decay * left for decay, left, _ in self._older], 1)
        right = torch.cat([right for _, _, right in self._older], 1)
        return self._pieces(left, right, self._rule.lr, 1 - self._share)

    def _scaled(self, values: Tensor) -> Tensor:
        return values if self._share == 1 else values.mul_(self._share)


class First(LinearOfAll):
    """The first layer, of few rows: its inputs are the same in all steps."""

    def __init__(self, layer: Linear, theta: Params, rule: StepRule) -> None:
        super().__init__(layer, theta, rule)
        self._left: Tensor | None = None
        self._right = torch.empty(0)
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # id -> batch, its value at theta
        self._products: dict[int, Tensor] = {}

    @staticmethod
    def entries(layer: Linear, steps: int, rows: int) -> int:
        del steps
        return 2 * rows * (rows + 2 * layer.outputs)

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        if id(x) not in self._known:
            self._known[id(x)] = x, self._at_theta(x)
        _, at_theta = self._known[id(x)]
        if self._left is None:
            return at_theta.clone()
        if id(x) not in self._products:
            self._products[id(x)] = self._with_bias(torch.bmm(x, self._right.mT))
        return torch.baddbmm(
            at_theta, self._products[id(x)], self._left, beta=self._share, alpha=-self._rule.lr
        )

    def step(self) -> None:
        if self._left is None:
            self._left, self._right = self._e, self._x
        else:
            self._left.mul_(self._rule.decay).add_(self._e)
        self._share = self._rule.next_share(self._share)

    def difference(self) -> list[Piece]:
        if self._left is None:
            return self._pieces(torch.zeros_like(self._e), self._x)
        return self._pieces(self._left, self._right, self._rule.lr, 1 - self._share)


class Own(Inner):
    """A small layer: each client has fast weights of its own."""

    def __init__(self, layer: Linear, theta: Params, rule: StepRule) -> None:
        super().__init__(layer, theta, rule)
        self._weights: Tensor | None = None  # (clients, outputs, inputs); None: still theta
        self._biases: Tensor | None = None  # (clients, outputs)

    @staticmethod
    def entries(layer: Linear, steps: int, rows: int) -> int:
        del steps, rows
        return 3 * layer.inputs * layer.outputs

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        if self._weights is None:
            return self._at_theta(x)
        if self._biases is None:
            return torch.bmm(x, self._weights.mT)
        return torch.baddbmm(self._biases[:, None], x, self._weights.mT)

    def backward(self, e: Tensor) -> Tensor:
        self._e = e
        return e @ (self._weight if self._weights is None else self._weights)

    def step(self) -> None:
        gradient = torch.bmm(self._e.mT, self._x)
        weights = self._weight if self._weights is None else self._weights
        self._weights = self._rule.moved(weights, self._weight, gradient)
        if self._bias is not None:
            biases = self._bias if self._biases is None else self._biases
            self._biases = self._rule.moved(biases, self._bias, self._e.sum(1))

    def difference(self) -> list[Piece]:
        if self._weights is None:
            return self._pieces(torch.zeros_like(self._e), self._x)
        weight, bias = self._names
        pieces: list[Piece] = [Formed(weight, self._weight - self._weights)]
        if bias is not None and self._bias is not None and self._biases is not None:
            pieces.append(Formed(bias, self._bias - self._biases))
        return pieces


def kind_of(layer: Linear, steps: int, rows: int, reads_examples: bool) -> type[LinearOfAll]:
    """Return the kind of layer that takes the fewest operations.

    Beyond the product with W that all kinds share, a step multiplies each row: in `First` by the
    other rows and the outputs; in `LowRank` by half of all steps' rows, on average, and the inputs
    and outputs, twice; in `Own` by the weights once more, for the gradient, and these come from
    memory for each client (hence 1.5).

    Args:
        layer: The layer.
        steps: Of the inner loop.
        rows: Examples of a step.
        reads_examples: Whether its inputs are the examples themselves.
    """
    inputs, outputs = layer.inputs, layer.outputs
    if reads_examples and rows <= 2 * inputs:
        return First
    if steps * rows * (inputs + outputs) <= 1.5 * inputs * outputs:
        return LowRank
    return Own
