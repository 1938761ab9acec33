"""Gradients as functions: ``torch.func.grad`` without the compiler of PyTorch.

``torch.func.grad`` imports ``torch._dynamo`` when it first runs, a second or more of CPU, only to
switch off compiled autograd, which fedmaml never switches on. The functions here use the same
levels of functorch, with the same kernels and bits; they nest with each other, with ``torch.func``
and with ``torch.func.vmap``. They take private names of PyTorch, so
tests/core/test_differentiation.py compares them with ``torch.func``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.eager_transforms import (
    _create_differentiable,
    _undo_create_differentiable,
    _wrap_all_tensors,
    grad_increment_nesting,
)
from torch.utils._pytree import tree_flatten, tree_map_, tree_unflatten


def grad_and_value(function: Callable[..., Tensor]) -> Callable[..., tuple[Any, Tensor]]:
    """Return the gradient of a scalar function in its first argument, and its value."""

    def both(*args: Any) -> tuple[Any, Tensor]:
        with grad_increment_nesting() as level, torch.enable_grad():
            point, *others = _wrap_all_tensors(args, level)
            tree_map_(lambda value: _create_differentiable(value, level), point)
            value = function(point, *others)
            leaves, spec = tree_flatten(point)
            found = _gradients(value, leaves)
            gradient = _undo_create_differentiable(tree_unflatten(found, spec), level)
            return gradient, _undo_create_differentiable(value, level)

    return both


def _gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return the gradient of a scalar in each leaf: 0 for those that it does not depend on."""
    if not isinstance(value, Tensor) or value.dim():
        raise RuntimeError(
            f"a gradient needs a scalar loss, and this one is {_kind(value)}: return its mean"
        )
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad([value], leaves, create_graph=True, allow_unused=True)
    return [
        torch.zeros_like(leaf) if part is None else part
        for part, leaf in zip(found, leaves, strict=True)
    ]


def _kind(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
