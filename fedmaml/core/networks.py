"""Networks that are safe under ``torch.func.vmap``: no running statistics, no branch on data.

Each has its last layer under the name ``head``, which strategies that share only the body
(FedRep) or only the embedding (ProtoNet) cut off.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected network: linear layers with an activation between them.

    Args:
        sizes: Width of input, hidden layers and output, e.g. ``(64, 32, 10)``.
        activation: Applied after every layer but the last.
        head_gain: The head's weights are drawn from N(0, head_gain^2 / inputs); hidden layers are
            drawn from N(0, 2 / inputs) (He et al. 2015); biases start at 0.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] = torch.relu,
        head_gain: float = 0.5,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.body = nn.ModuleList(
            nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes[:-1])
        )
        self.head = nn.Linear(sizes[-2], sizes[-1])
        for name, parameter in self.body.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)
        nn.init.normal_(self.head.weight, std=head_gain / math.sqrt(sizes[-2]))
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(examples, sizes[0])`` to ``(examples, sizes[-1])``."""
        for layer in self.body:
            x = self.activation(layer(x))
        output: Tensor = self.head(x)
        return output


class LinearModel(nn.Module):
    """One linear layer, which is all head; it starts at zero."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs, bias=bias)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(examples, inputs)`` to ``(examples, outputs)``."""
        output: Tensor = self.head(x)
        return output


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, normalisation, ReLU and 2x2 pooling, then a linear head.

    The network of Vinyals et al. 2016 and Finn et al. 2017.

    Args:
        channels: Channels of the input images.
        size: Height and width of the input images in pixels, >= 16.
        classes: Outputs of the head.
        filters: Channels of every block.
        norm: "group" normalises each example by itself; "batch" uses the statistics of the batch
            at hand, in training and evaluation alike, which makes evaluation transductive (the
            examples of a batch influence each other's predictions).
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        filters: int = 64,
        norm: Literal["group", "batch"] = "group",
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(_conv_block(channels if block == 0 else filters, filters, norm) for block in range(4))
        )
        self.head = nn.Linear(filters * (size // 16) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(examples, channels, size, size)`` to logits ``(examples, classes)``."""
        output: Tensor = self.head(self.body(x).flatten(1))
        return output


def _conv_block(channels: int, filters: int, norm: str) -> nn.Sequential:
    layer = (
        nn.GroupNorm(math.gcd(filters, 8), filters)
        if norm == "group"
        else nn.BatchNorm2d(filters, track_running_stats=False)
    )
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1), layer, nn.ReLU(), nn.MaxPool2d(2)
    )


def dropout(x: Tensor, noise: Tensor, p: float) -> Tensor:
    """Set entries to 0 with probability p and scale the others by 1 / (1 - p).

    Args:
        x: Any shape.
        noise: Uniform draws in (0, 1) of the same shape: an entry of the example that the problem
            declares, ``Problem(draws={"mask": Draw((32,), "uniform")})``.
        p: Probability, in [0, 1).
    """
    return x * (noise > p) / (1 - p)
