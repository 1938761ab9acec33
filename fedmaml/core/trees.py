"""Trees of examples: a tensor, or a flat mapping of tensors that share the first axis (examples).

One example may be a graph (``{"nodes": ..., "edges": ..., "mask": ...}``), an episode, a window of
a series or a pair (user, item): each entry holds one part of every example. Integer entries keep
their type.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Tree = Any
"""``Tensor | dict[str, Tensor]``; the entries of a mapping share the first axis."""


def leaves(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree, a mapping's in the order of its names."""
    return [value for _, value in named(tree)]


def named(tree: Tree) -> list[tuple[str, Tensor]]:
    """Return names and tensors of a tree; the name of a tensor alone is ""."""
    return [(name, tree[name]) for name in sorted(tree)] if isinstance(tree, dict) else [("", tree)]


def map_tree(function: Callable[..., Tensor], *trees: Tree) -> Tree:
    """Apply a function to the tensors of the same name in each tree."""
    first, *rest = trees
    if not isinstance(first, dict):
        return function(*trees)
    return {name: function(value, *(tree[name] for tree in rest)) for name, value in first.items()}


def length(tree: Tree, axis: int = 0) -> int:
    """Return how many entries a tree has along an axis that all of its tensors share."""
    return leaves(tree)[0].shape[axis]


def describe(tree: Tree) -> tuple[object, ...]:
    """Return names, shapes and types, a value by which trees are grouped."""
    return tuple((name, value.shape, value.dtype) for name, value in named(tree))
