"""Replay: what a client did, kept in a memory of fixed size whose oldest rows are written over.

A network that acts and can go over what it did declares it (`Recalls`): its predictions have the
entry ``played``, one row of numbers for each example; inputs ``{"played": rows}`` make it go over
such rows instead of acting, and its predictions are then what the loss takes. All functions are
pure, and pass ``torch.func.vmap``.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedmaml.core.params import Params

SLOW = "slow."


@runtime_checkable
class Recalls(Protocol):
    """A network that acts, and can go over what it did before.

    Parameters in a module ``slow`` are slow copies: ``slow.NAME`` follows the parameter NAME.

    Attributes:
        played: Numbers of a row.
        context: Numbers of what `context_of` makes of a part of a row.
        latent_enters: Names of the biases that a latent is added to.
        latent_held: Those of them whose losses the latent's inference does not learn from.
    """

    played: int
    context: int
    latent_enters: tuple[str, ...]
    latent_held: tuple[str, ...]

    def context_of(self, rows: Tensor) -> Tensor:
        """Return what rows tell about the client, ``(rows, parts, context)``, by no parameter."""


def empty_replay(size: int, width: int, dtype: torch.dtype) -> Params:
    """Return a memory of ``size`` rows, none of which is written."""
    return {"rows": torch.zeros(size, width, dtype=dtype), "written": torch.zeros((), dtype=dtype)}


def remembered(memory: Params, rows: Tensor) -> Params:
    """Return the memory with further rows, at most as many as it has, in place of the oldest."""
    size, width = memory["rows"].shape
    count = torch.arange(len(rows), dtype=memory["written"].dtype, device=rows.device)
    place = ((memory["written"] + count) % size).long()
    kept = memory["rows"].scatter(0, place[:, None].expand(-1, width), rows)
    return {"rows": kept, "written": memory["written"] + len(rows)}


def recalled(memory: Params, uniform: Tensor) -> Tensor:
    """Return rows that were written, drawn with replacement; zeros if there is none.

    Args:
        memory: From `empty_replay` and `remembered`.
        uniform: In (0, 1), one number for each row that is wanted.
    """
    known = memory["written"].clamp(min=1, max=len(memory["rows"]))
    rows: Tensor = memory["rows"][(uniform * known).long()]
    return rows
