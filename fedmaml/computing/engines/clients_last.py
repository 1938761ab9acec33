"""One client's computation, rewritten for many: every tensor gets one more axis, the last.

The function is traced for one client into a graph of ATen operations, as ``torch.export`` does;
then each operation is written for tensors whose last axis is the clients. That axis is contiguous
everywhere, so an operation of one client becomes the same operation on vectors of clients, a matrix
product becomes multiplications and additions of such vectors, and no axis of a client's own tensors
changes its number. Tensors that all clients share keep their shape until they meet one that is not
shared.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.func import functionalize
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

aten = torch.ops.aten


class UnknownOperationError(Exception):
    """An operation has no rule here; the text names it."""


@dataclass(frozen=True)
class Value:
    """A tensor of one client's computation.

    Attributes:
        tensor: Its values.
        own: Whether each client has its own, along the last axis.
    """

    tensor: Tensor
    own: bool

    @property
    def rank(self) -> int:
        """Axes of one client's tensor."""
        return self.tensor.dim() - self.own

    @property
    def last(self) -> Tensor:
        """The values with a client axis, of size 1 if they are shared."""
        return self.tensor if self.own else self.tensor.unsqueeze(-1)


def with_clients_last(
    function: Callable[[Any, Any], Any], shared: Any, own: Any, clients: int
) -> tuple[GraphModule, TreeSpec]:
    """Rewrite a function of one client for many.

    Args:
        function: (shared, own) -> results; trees of tensors, and no branch on their values.
        shared: What all clients share.
        own: What one client has; only shapes and types matter.
        clients: Number of clients.

    Returns:
        A graph that takes the leaves of shared, then those of own with a client axis last, and
        returns the leaves of the results with a client axis last; and the results' tree.

    Raises:
        UnknownOperationError: If the function needs an operation that has no rule.
        Exception: Whatever the function raises.
    """
    flat, tree = tree_flatten((shared, own))
    common = len(tree_leaves(shared))
    results: list[TreeSpec] = []

    def one(*values: Tensor) -> list[Tensor]:
        leaves, structure = tree_flatten(function(*tree_unflatten(list(values), tree)))
        results.append(structure)
        return leaves

    graph = make_fx(functionalize(one), decomposition_table=_decompositions())(*flat)
    graph.graph.eliminate_dead_code()

    def many(*values: Tensor) -> list[Tensor]:
        inputs = [Value(value, place >= common) for place, value in enumerate(values)]
        return [value.last.expand(*value.last.shape[:-1], clients) for value in _run(graph, inputs)]

    stacked = [value[..., None].expand(*value.shape, clients).contiguous() for value in flat]
    return make_fx(many)(*flat[:common], *stacked[common:]), results[-1]


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the decompositions: to core ATen, and normalisations to arithmetic."""
    norms = (aten.native_layer_norm, aten.native_group_norm, aten.native_batch_norm)
    return dict(torch.export.default_decompositions()) | get_decompositions(norms)


def _run(graph: GraphModule, inputs: Sequence[Value]) -> list[Value]:
    """Run a graph of one client for many clients."""
    remaining = iter(inputs)
    found: dict[torch.fx.Node, Any] = {}
    for node in graph.graph.nodes:
        arguments, keywords = map_arg((node.args, node.kwargs), found.__getitem__)
        match node.op:
            case "placeholder":
                found[node] = next(remaining)
            case "get_attr":
                found[node] = Value(getattr(graph, node.target), own=False)
            case "call_function":
                found[node] = _apply(node.target, arguments, keywords)
            case "output":
                return list(arguments[0])
            case _:
                raise UnknownOperationError(f"{node.op} {node.target}")
    raise AssertionError("a graph ends with its output")


def _apply(operation: Any, arguments: Any, keywords: Any) -> Any:
    """Return the Value, or the tuple of them, of an operation."""
    if operation is operator.getitem:
        return arguments[0][arguments[1]]
    if torch.Tag.nondeterministic_seeded in operation.tags:
        raise UnknownOperationError(f"{operation.overloadpacket}, which draws random numbers")
    values = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Value)]
    if not any(value.own for value in values):
        plain = tree_map(lambda leaf: leaf.tensor if isinstance(leaf, Value) else leaf, arguments)
        return tree_map(lambda tensor: Value(tensor, own=False), operation(*plain, **keywords))
    name = operation.overloadpacket
    if name in _RULES:
        result = _RULES[name](*arguments, **keywords)
    elif name in _REDUCTIONS:
        result = _reduce(name, *arguments, **keywords)
    elif name in _ALONG_ONE_AXIS:
        result = _along(name, *arguments, **keywords)
    elif name in _ELEMENTWISE or torch.Tag.pointwise in operation.tags:
        # Broadcasting lines shapes up from the right, where all have the client axis.
        aligned = tree_map(lambda leaf: leaf.last if isinstance(leaf, Value) else leaf, arguments)
        result = operation(*aligned, **keywords)
    else:
        raise UnknownOperationError(str(name))
    return tree_map(lambda tensor: Value(tensor, own=True), result)


# --- rules: (arguments as they come, tensors as Values) -> tensors with a client axis last --------


def _mm(left: Value, right: Value) -> Tensor:
    return (left.last[:, :, None] * right.last[None]).sum(1)


def _bmm(left: Value, right: Value) -> Tensor:
    return (left.last[:, :, :, None] * right.last[:, None]).sum(2)


def _addmm(bias: Value, left: Value, right: Value, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * bias.last + alpha * _mm(left, right)


def _view(value: Value, shape: Sequence[int]) -> Tensor:
    return value.last.reshape(*shape, value.last.shape[-1])


def _expand(value: Value, shape: Sequence[int]) -> Tensor:
    new_axes = (None,) * (len(shape) - value.rank)
    return value.last[new_axes].expand(*shape, -1)


def _permute(value: Value, order: Sequence[int]) -> Tensor:
    return value.last.permute(*(axis % value.rank for axis in order), value.rank)


def _transpose(value: Value, first: int, second: int) -> Tensor:
    return value.last.transpose(first % value.rank, second % value.rank)


def _unsqueeze(value: Value, axis: int) -> Tensor:
    return value.last.unsqueeze(axis % (value.rank + 1))


def _cat(values: Sequence[Value], axis: int = 0) -> Tensor:
    return torch.cat(_same_clients(*values), axis % values[0].rank)


def _gather(value: Value, axis: int, index: Value, **_: bool) -> Tensor:
    table, places = _same_clients(value, index)
    return torch.gather(table, axis % value.rank, places)


def _scatter(value: Value, axis: int, index: Value, source: Value | float) -> Tensor:
    if isinstance(source, Value):
        table, places, written = _same_clients(value, index, source)
        return torch.scatter(table, axis % value.rank, places, written)
    table, places = _same_clients(value, index)
    return torch.scatter(table, axis % value.rank, places, source)


def _reduce(
    operation: Any, value: Value, axes: Sequence[int] | None = None, *rest: Any, **keywords: Any
) -> Any:
    if not value.rank:
        raise UnknownOperationError(f"{operation} of a single number")
    own = [axis % value.rank for axis in axes] if axes else list(range(value.rank))
    return operation(value.last, own, *rest, **keywords)


def _along(operation: Any, value: Value, axis: Any = 0, *rest: Any, **keywords: Any) -> Any:
    if not value.rank:
        raise UnknownOperationError(f"{operation} of a single number")
    own = [i % value.rank for i in axis] if isinstance(axis, list) else axis % value.rank
    return operation(value.last, own, *rest, **keywords)


def _same_clients(*values: Value) -> list[Tensor]:
    clients = max(value.last.shape[-1] for value in values)
    return [value.last.expand(*value.last.shape[:-1], clients) for value in values]


_RULES: dict[Any, Callable[..., Any]] = {
    aten.mm: _mm, aten.bmm: _bmm, aten.addmm: _addmm,
    aten.view: _view, aten.reshape: _view, aten._unsafe_view: _view,
    aten.expand: _expand, aten.permute: _permute, aten.transpose: _transpose,
    aten.unsqueeze: _unsqueeze, aten.cat: _cat, aten.gather: _gather, aten.scatter: _scatter,
}  # fmt: skip
_REDUCTIONS = {aten.sum, aten.mean, aten.amax, aten.amin, aten.var, aten.var_mean}
_ALONG_ONE_AXIS = {
    aten._softmax, aten._log_softmax, aten.slice, aten.select, aten.squeeze, aten.cumsum,
}  # fmt: skip
_ELEMENTWISE = {
    aten.alias, aten.clone, aten.detach, aten._to_copy, aten.lift_fresh_copy,
    aten.full_like, aten.zeros_like, aten.ones_like,
}  # fmt: skip
