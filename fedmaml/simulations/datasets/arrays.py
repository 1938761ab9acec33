"""Examples of clients as arrays in memory: checked, their target read, held by a key.

A configuration holds plain values alone, so data in memory stay in this process, under a key that
names their content. Errors name client and row, counted from 0, and never a value.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.metrics import Metric
from fedmaml.simulations.datasets.schema import MAX_CLASSES, Column, Kind, Schema
from fedmaml.simulations.datasets.sites import Sites, arranged, drawn
from fedmaml.simulations.datasets.tables import Table, plain

Loss = Callable[[Tensor, Tensor], Tensor]
C = TypeVar("C", "Arrays", Table)


@dataclass(frozen=True, eq=False)
class Arrays:
    """The examples of one client; equal to itself alone.

    Attributes:
        client: Its name.
        x: float64 ``(rows, *features)``; NaN where a number is missing.
        y: Labels or numbers, ``(rows,)``.
    """

    client: str
    x: np.ndarray
    y: np.ndarray

    @property
    def name(self) -> str:
        """Name in errors."""
        return f"client {self.client!r}"

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Held:
    """Clients in memory, and what of a problem is code.

    Attributes:
        clients: All arrays, or all tables.
        network: Makes an own network; None: a setting names one.
        loss: Of one's own; None: chosen from the target.
        metrics: Of one's own; () chooses them from the target.
        target: Name of the tables' target; "y" of arrays.
    """

    clients: tuple[Arrays, ...] | tuple[Table, ...]
    network: Callable[[], nn.Module] | None = None
    loss: Loss | None = None
    metrics: tuple[Metric, ...] = ()
    target: str = "y"

    @property
    def code(self) -> tuple[Any, ...]:
        """What two of equal content may differ in."""
        return self.network, self.loss, self.metrics


_HELD: dict[str, Held] = {}


def hold(held: Held) -> str:
    """Keep clients for the life of this process; return their key.

    The key is a digest of names, inputs and targets; equal data with other code get another one.
    """
    digest = hashlib.sha256(held.target.encode())
    for one in held.clients:
        digest.update(one.client.encode() + b"\0")
        if isinstance(one, Table):
            digest.update(one.rows.to_csv().encode())
        else:
            digest.update(f"{one.x.shape} {one.y.dtype}".encode())
            digest.update(np.ascontiguousarray(one.x).tobytes() + one.y.astype(str).tobytes())
    key = base = digest.hexdigest()[:16]
    number = 2
    while key in _HELD and _HELD[key].code != held.code:
        key, number = f"{base}-{number}", number + 1
    _HELD.setdefault(key, held)
    return key


def held_under(key: str) -> Held:
    """Return what is kept under a key.

    Raises:
        ConfigurationError: If this process holds nothing under it.
    """
    if key not in _HELD:
        raise ConfigurationError(
            f"task.data = {key!r}: these data are arrays that another process held in memory; pass "
            "them again, fm.run(fm.from_clients({...}), ...), or write them to files for "
            "scenario csv"
        )
    return _HELD[key]


@lru_cache(maxsize=8)
def sites_of(
    key: str,
    unseen: tuple[str, ...],
    kind: Literal["auto", "classification", "regression"],
    fractions: tuple[float, float],
    seed: int,
) -> tuple[Sites, tuple[int, ...]]:
    """Return the clients as `datasets.sites` arranges them, and the shape of one example.

    Args:
        key: Of what is held.
        unseen: Names of the test clients; () draws them.
        kind: Of the problem.
        fractions: Of the clients that validate, and that test.
        seed: Of the draw.

    Raises:
        ConfigurationError: If too few are left to train.
        DataError: If a client does not fit the others.
    """
    held = held_under(key)
    if tables := [one for one in held.clients if isinstance(one, Table)]:
        known, tests = _parted(tables, unseen)
        sites = arranged(known, tests, held.target, "", (), kind, fractions, seed)
        return sites, (sites.schema.width,)
    given = [one for one in held.clients if isinstance(one, Arrays)]
    cure = "pass further clients, or lower validation and test"
    arrays, counts = drawn(*_parted(given, unseen), fractions, seed, cure)
    shape = arrays[0].x.shape[1:]
    columns = tuple(Column(f"x{number}") for number in range(int(np.prod(shape))))
    found, classes = kind_of(arrays[: counts[0]], kind)
    labels = tuple(map(plain, classes))
    rows = tuple(
        (torch.from_numpy(one.x.reshape(len(one), -1)), _targets(one, found, classes))
        for one in arrays
    )
    short, names = zip(*((one.client, one.name) for one in arrays), strict=True)
    return Sites(short, names, rows, counts, Schema("y", found, labels, columns)), shape


def _parted(clients: Sequence[C], unseen: tuple[str, ...]) -> tuple[tuple[C, ...], tuple[C, ...]]:
    """Return the clients of which some train, and those that `unseen` names."""
    return (
        tuple(one for one in clients if one.client not in unseen),
        tuple(one for one in clients if one.client in unseen),
    )


def kind_of(
    arrays: Sequence[Arrays], kind: Literal["auto", "classification", "regression"]
) -> tuple[Kind, np.ndarray]:
    """Return what the target of training clients makes, and its labels, sorted.

    Raises:
        DataError: If there is one label alone, or text for a regression.
    """
    values = np.unique(np.concatenate([one.y for one in arrays]))
    words = values.dtype.kind not in "iuf"
    few = len(values) <= MAX_CLASSES and (words or bool((values == np.round(values)).all()))
    if kind == "regression" or (kind == "auto" and not words and not few):
        if words:
            raise DataError("kind = 'regression': the targets are labels, no numbers; leave kind")
        return "regression", values[:0]
    if len(values) < 2:
        raise DataError("the targets of all training clients have one value: nothing to predict")
    return "classification", values


def _targets(one: Arrays, kind: Kind, classes: np.ndarray) -> Tensor:
    if kind == "regression":
        return torch.from_numpy(one.y.astype(float))
    unknown = ~np.isin(one.y, classes)
    if unknown.any():
        raise DataError(
            f"{one.name}, row {int(unknown.argmax())}: a class that no training client has "
            f"({int(unknown.sum())} of {len(one)} rows); the classes are those of the training "
            "clients"
        )
    y = torch.from_numpy(np.searchsorted(classes, one.y))
    return y.double() if len(classes) == 2 else y
