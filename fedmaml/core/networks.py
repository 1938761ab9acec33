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
from torch.nn import functional as F


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


class GRU(nn.Module):
    """Gated recurrent units, as ``nn.GRU`` of one layer, in operations that vmap takes.

        r, z = sigmoid(W_i x_t + b_i + W_h h + b_h)       reset and update gate, a third of W each
        n = tanh(W_i x_t + b_i + r (W_h h + b_h))         the last third
        h <- (1 - z) n + z h

    Parameters have the names, shapes and first values that they have in ``nn.GRU``, whose state
    dictionary it loads. PyTorch has no batching rule for ``nn.GRU`` and ``nn.GRUCell``.
    Cho et al. 2014. arXiv:1406.1078.

    Args:
        inputs: Features of a step.
        hidden: Features of the state.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(hidden)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound))

        self.weight_ih_l0 = drawn(3 * hidden, inputs)
        self.weight_hh_l0 = drawn(3 * hidden, hidden)
        self.bias_ih_l0 = drawn(3 * hidden)
        self.bias_hh_l0 = drawn(3 * hidden)

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Map ``(examples, steps, inputs)`` to all states, ``(examples, steps, hidden)``.

        Args:
            x: Sequences; the last states are ``output[:, -1]``.
            start: State before the first step, ``(examples, hidden)``; None: zeros.
        """
        weight, bias = self.weight_hh_l0, self.bias_hh_l0
        of_inputs = F.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        state = x.new_zeros(x.shape[0], weight.shape[1]) if start is None else start
        states = []
        for of_input in of_inputs.unbind(1):
            reset, update, new = of_input.chunk(3, -1)
            of_reset, of_update, of_new = F.linear(state, weight, bias).chunk(3, -1)
            kept = torch.sigmoid(update + of_update)
            proposed = torch.tanh(new + torch.sigmoid(reset + of_reset) * of_new)
            state = proposed + kept * (state - proposed)
            states.append(state)
        return torch.stack(states, 1)


class MultiheadAttention(nn.Module):
    """Attention of several heads, as ``nn.MultiheadAttention``, in operations that vmap takes.

        head = softmax(Q K' / sqrt(width / heads)) V,      output = W_o [head_1, head_2, ...] + b_o

    Parameters have the names, shapes and first values that they have in ``nn.MultiheadAttention``,
    whose state dictionary it loads. It has second derivatives, which PyTorch's fused attention has
    not, and no dropout (`dropout` takes declared noise). Vaswani et al. 2017. arXiv:1706.03762.

    Args:
        width: Features of queries, keys, values and outputs.
        heads: Number of heads; divides the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"{heads} heads do not divide a width of {width}: give them equal shares"
            )
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Map queries ``(examples, queries, width)`` to as many outputs.

        Args:
            query: What asks.
            key: What is asked, ``(examples, keys, width)``.
            value: What it answers, in the shape of ``key``.
            key_padding_mask: True at keys that are none, ``(examples, keys)``.
            attn_mask: True where a query must not see a key, ``(queries, keys)``.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.heads, -1).transpose(-2, -3)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )  # (examples, heads, rows, width / heads)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if key_padding_mask is not None:
            scores = scores.masked_fill(key_padding_mask[:, None, None], -torch.inf)
        if attn_mask is not None:
            scores = scores.masked_fill(attn_mask, -torch.inf)
        together = (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)
        output: Tensor = self.out_proj(together)
        return output


def dropout(x: Tensor, noise: Tensor, p: float) -> Tensor:
    """Set entries to 0 with probability p and scale the others by 1 / (1 - p).

    Args:
        x: Any shape.
        noise: Uniform draws in (0, 1) of the same shape: an entry of the example that the problem
            declares, ``Problem(draws={"mask": Draw((32,), "uniform")})``.
        p: Probability, in [0, 1).
    """
    return x * (noise > p) / (1 - p)
