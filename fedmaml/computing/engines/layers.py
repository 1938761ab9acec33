"""A network as a chain of layers, for engines that compute layers themselves.

The forward pass is traced by ``torch.fx``, so that any module qualifies whose layers follow one
another, however it is written; any other network is refused with the reason.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn
from torch.fx import Node, symbolic_trace
from torch.nn import functional as F

from fedmaml.core.failures import contained

Activation = Literal["relu", "tanh"]


@dataclass(frozen=True)
class Linear:
    """y = x W' + b.

    Attributes:
        weight: Name of W, ``(outputs, inputs)``.
        bias: Name of b, ``(outputs,)``; None without.
        inputs: Columns of W.
        outputs: Rows of W.
    """

    weight: str
    bias: str | None
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Conv2d:
    """A convolution with one group.

    Attributes:
        weight: Name, ``(outputs, inputs, height, width)``.
        bias: Name; None without.
        stride: Vertical, horizontal.
        padding: Vertical, horizontal; with zeros.
    """

    weight: str
    bias: str | None
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True)
class BatchNorm2d:
    """Normalisation by the statistics of the batch, without running ones.

    Attributes:
        weight: Name of the scale.
        bias: Name of the shift.
        eps: Added to the variance.
    """

    weight: str
    bias: str
    eps: float


@dataclass(frozen=True)
class GroupNorm:
    """Normalisation of each image by itself, by the statistics of groups of its channels.

    Attributes:
        weight: Name of the scale.
        bias: Name of the shift.
        eps: Added to the variance.
        groups: Number of groups, of equal size.
    """

    weight: str
    bias: str
    eps: float
    groups: int


@dataclass(frozen=True)
class Elementwise:
    """An activation."""

    function: Activation


@dataclass(frozen=True)
class MaxPool2d:
    """Largest of each square window, which does not overlap others.

    Attributes:
        size: Side of the window, and the stride.
    """

    size: int


@dataclass(frozen=True)
class Flatten:
    """All axes but the first become one."""


ImageLayer = Conv2d | BatchNorm2d | GroupNorm | Elementwise | MaxPool2d
Layer = ImageLayer | Linear | Flatten

_ACTIVATIONS: dict[Any, Activation] = {
    torch.relu: "relu", F.relu: "relu", "relu": "relu",
    torch.tanh: "tanh", F.tanh: "tanh", "tanh": "tanh",
}  # fmt: skip


@lru_cache(maxsize=32)
def layers_of(network: nn.Module) -> tuple[Layer, ...] | str:
    """Return a network's chain of layers, or why it has none."""
    try:
        with contained():
            graph = symbolic_trace(network).graph
    except Exception as error:  # torch.fx raises what the forward pass raises
        return f"its forward pass cannot be traced by torch.fx ({type(error).__name__})"
    layers: list[Layer] = []
    previous: Node | None = None
    for node in graph.nodes:
        if node.op == "output":
            if node.args[0] is not previous:
                return "its output is not that of its last layer"
            break
        if node.op == "placeholder":
            if previous is not None:
                return "its forward pass takes more than one argument"
        else:
            if node.all_input_nodes != [previous]:
                return f"{node} does not take just the layer before it"
            layer = _layer(node, network)
            if isinstance(layer, str):
                return layer
            layers += layer
        previous = node
    named = [name for layer in layers for name in names_of(layer)]
    if sorted(named) != sorted(name for name, _ in network.named_parameters()):
        return "a layer's parameters are used twice or not at all, or are frozen"
    return tuple(layers)


def names_of(layer: Layer) -> list[str]:
    """Return the names of a layer's parameters."""
    names = [getattr(layer, "weight", None), getattr(layer, "bias", None)]
    return [name for name in names if name is not None]


def _layer(node: Node, network: nn.Module) -> list[Layer] | str:
    """Return the layer that a node of the graph is (nothing for an identity), or why not."""
    if node.op == "call_module":
        return _module(str(node.target), network.get_submodule(str(node.target)))
    if node.op in ("call_function", "call_method"):
        if node.target in _ACTIVATIONS:
            return [Elementwise(_ACTIVATIONS[node.target])]
        if node.target in (torch.flatten, "flatten") and node.args[1:] == (1,) and not node.kwargs:
            return [Flatten()]
        name = getattr(node.target, "__name__", str(node.target))
        return f"{name} is not a layer that it knows"
    return f"{node.op} {node.target} is not a layer"


def _module(name: str, module: nn.Module) -> list[Layer] | str:
    match module:
        case nn.Linear():
            return [Linear(f"{name}.weight", _bias(name, module), *_sizes(module))]
        case nn.Conv2d() if _plain(module):
            stride, padding = module.stride, module.padding
            if isinstance(padding, str):
                return f"padding={padding!r} of {name!r} is not one that it knows"
            return [Conv2d(f"{name}.weight", _bias(name, module), stride, padding)]  # type: ignore[arg-type]
        case nn.BatchNorm2d(affine=True, running_mean=None):
            return [BatchNorm2d(f"{name}.weight", f"{name}.bias", module.eps)]
        case nn.GroupNorm(affine=True):
            return [GroupNorm(f"{name}.weight", f"{name}.bias", module.eps, module.num_groups)]
        case nn.ReLU():
            return [Elementwise("relu")]
        case nn.Tanh():
            return [Elementwise("tanh")]
        case nn.Flatten(start_dim=1, end_dim=-1):
            return [Flatten()]
        case nn.MaxPool2d(padding=0, dilation=1, ceil_mode=False, return_indices=False) if (
            isinstance(module.kernel_size, int) and module.stride == module.kernel_size
        ):
            return [MaxPool2d(module.kernel_size)]
        case nn.Identity():
            return []
    return f"{type(module).__name__} {name!r} is not a layer that it knows"


def _bias(name: str, module: nn.Linear | nn.Conv2d) -> str | None:
    return f"{name}.bias" if module.bias is not None else None


def _sizes(module: nn.Linear) -> tuple[int, int]:
    return module.in_features, module.out_features


def _plain(module: nn.Conv2d) -> bool:
    return module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
