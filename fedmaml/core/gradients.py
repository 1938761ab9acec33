"""Gradients of functions of parameters: by autograd, or under vmap by functorch.

One client is differentiated by plain autograd, many under ``torch.func.vmap`` by its levels
(`core.differentiation`), which alone work there. Both give the same numbers; for one client
functorch takes twice the time, because it wraps every tensor once for each level.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from fedmaml.core.differentiation import grad_and_value

T = TypeVar("T")

_FINISHED = "_fedmaml_gradient_is_taken"


def gradient(function: Callable[[T], Tensor], point: T, again: bool | None = None) -> T:
    """Return the gradient of a function at a point; arguments as in `gradient_and_value`."""
    return gradient_and_value(function, point, again)[0]


def gradient_and_value(
    function: Callable[[T], Tensor], point: T, again: bool | None = None
) -> tuple[T, Tensor]:
    """Return the gradient of a function at a point, and its value.

    Where an outer derivative is being taken, of this or by the caller's own autograd, both can be
    differentiated again; elsewhere neither holds a graph.

    Args:
        function: A tree of tensors -> scalar.
        point: The tree, e.g. `Params` or `MetaParams`; not changed.
        again: Whether an outer derivative passes through the gradient; False holds it constant,
            None finds out from what the function computes.
    """
    if inside_transform():
        slope, result = grad_and_value(function)(point)
        return tree_map(Tensor.detach, slope) if again is False else slope, result
    values, tree = tree_flatten(point)
    outer = torch.is_grad_enabled()
    with torch.enable_grad():
        # Other names of the same values: ``function`` may use the point itself, too, as a constant.
        own = [_renamed(value, outer) for value in values]
        result = function(tree_unflatten(own, tree))
        if not result.requires_grad:  # it does not depend on the point
            return tree_unflatten([torch.zeros_like(value) for value in values], tree), result
        if again is None:
            again = outer and (is_differentiated(values) or _has_other_leaves(result, own))
        slopes = torch.autograd.grad(result, own, create_graph=again, materialize_grads=True)
        if again:
            for value in own:
                setattr(value, _FINISHED, True)
    return tree_unflatten(slopes, tree), result if again else result.detach()


def is_differentiated(tree: Any) -> bool:
    """Return whether an outer derivative by autograd will pass through the tensors of a tree."""
    return any(value.requires_grad for value in tree_leaves(tree))


def inside_transform() -> bool:
    """Return whether ``torch.func`` is at work, e.g. a vmap.

    PyTorch has no public name for it; its own ``torch.autograd.Function`` asks the same.
    """
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def _renamed(value: Tensor, outer: bool) -> Tensor:
    if outer and value.requires_grad:
        return value.view_as(value)
    return value.detach().requires_grad_()


def _has_other_leaves(result: Tensor, own: list[Tensor]) -> bool:
    """Return whether an outer derivative may pass through a result.

    That is so if it depends on a leaf that is neither its own nor of a gradient taken on the way.
    """
    known = {id(value) for value in own}
    left: list[Any] = [result.grad_fn]
    seen = {None, *left}
    while left:
        node = left.pop()
        below = node.next_functions
        if not below:  # a leaf, or a function that has none
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in known and not hasattr(leaf, _FINISHED):
                return True
        for other, _ in below:
            if other not in seen:
                seen.add(other)
                left.append(other)
    return False
