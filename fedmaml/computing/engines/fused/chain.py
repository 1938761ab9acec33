"""Which networks and losses the kernel `fused` knows, in its terms."""

from dataclasses import dataclass
from functools import lru_cache

from fedmaml.computing.engines.layers import Elementwise, Flatten, Linear, layers_of
from fedmaml.computing.engines.specs import UNKNOWN_LOSS
from fedmaml.core import losses
from fedmaml.core.learner import Learner, in_head

_ACTIVATIONS = {None: 0, "relu": 1, "tanh": 2}


@dataclass(frozen=True)
class Chain:
    """A network in the kernel's terms.

    Attributes:
        layers: Its linear layers.
        activations: After each of them.
        loss: Number of the loss.
        scale: Of squared errors.
        targets_have_columns: Whether targets have an axis of outputs.
        head: Index of the first layer of the head; how many layers there are if there is none.
    """

    layers: tuple[Linear, ...]
    activations: tuple[int, ...]
    loss: int
    scale: float
    targets_have_columns: bool
    head: int

    @property
    def widths(self) -> list[int]:
        """Inputs of each layer, and outputs of the last."""
        return [self.layers[0].inputs, *(layer.outputs for layer in self.layers)]


@lru_cache(maxsize=32)
def chain_of(learner: Learner) -> Chain | str:
    """Return a learner's network and loss in the kernel's terms, or why that cannot be."""
    layers = layers_of(learner.network)
    if isinstance(layers, str):
        return f"the network is not a chain of layers: {layers}"
    linear: list[Linear] = []
    activations: list[int] = []
    for layer in layers:
        match layer:
            case Linear():
                linear.append(layer)
                activations.append(0)
            case Elementwise() if linear and not activations[-1] and layer != layers[-1]:
                activations[-1] = _ACTIVATIONS[layer.function]
            case Flatten() if not linear:
                pass
            case _:
                return f"{type(layer).__name__} is not a layer that it knows at its place"
    if not linear:
        return "the network has no linear layer"
    outputs = linear[-1].outputs
    known = {
        losses.squared_error: (0, 1 / outputs, True),
        losses.half_squared_error: (0, 0.5, False),
        losses.cross_entropy: (1, 0.0, False),
        losses.binary_cross_entropy: (2, 0.0, False),
    }
    if learner.problem.loss not in known:
        return UNKNOWN_LOSS
    if outputs != 1 and learner.problem.loss in (
        losses.half_squared_error,
        losses.binary_cross_entropy,
    ):
        return f"the loss is for one output, and there are {outputs}"
    of_head = [in_head(learner.problem, layer.weight) for layer in linear]
    head = of_head.index(True) if any(of_head) else len(linear)
    if not all(of_head[head:]):
        return "a layer follows the head"
    return Chain(tuple(linear), tuple(activations), *known[learner.problem.loss], head)
