"""Layers as functions of named parameters, for strategies that learn a module beside the network.

A layer "read" has the parameters ``read.weight`` and ``read.bias``. Everything runs under
``torch.func.vmap`` and can be differentiated twice.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml.core.params import Params


def new_linear(
    name: str, inputs: int, outputs: int, rng: torch.Generator, dtype: torch.dtype
) -> Params:
    """Draw the parameters of `linear` from U(-b, b), b = 1 / sqrt(inputs), as ``nn.Linear``."""
    bound = 1 / math.sqrt(inputs)

    def drawn(*shape: int) -> Tensor:
        uniform = torch.rand(shape, generator=rng, dtype=torch.float64)
        return (bound * (2 * uniform - 1)).to(dtype)

    return {f"{name}.weight": drawn(outputs, inputs), f"{name}.bias": drawn(outputs)}


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """Map ``(..., inputs)`` to ``(..., outputs)``."""
    return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def new_lstm(
    name: str, inputs: int, hidden: int, rng: torch.Generator, dtype: torch.dtype
) -> Params:
    """Draw the parameters of `lstm`; the forget gate starts open, at a bias of 1."""
    params = new_linear(name, inputs, 4 * hidden, rng, dtype)
    params[f"{name}.bias"][hidden : 2 * hidden] += 1
    return params


def lstm(params: Params, name: str, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of a long short-term memory; return its output and its next cell.

        i, f, o = sigmoid(W x + b),  g = tanh(W x + b)      a quarter of W each, i f o g
        cell <- f cell + i g,  output = o tanh(cell)

    Args:
        params: Holds W and b.
        name: Of the layer.
        x: Inputs and, beside them, what comes from the step before; ``(..., inputs)``.
        cell: ``(..., hidden)``.
    """
    write, keep, show, new = linear(params, name, x).chunk(4, -1)
    cell = keep.sigmoid() * cell + write.sigmoid() * new.tanh()
    return show.sigmoid() * cell.tanh(), cell
