"""Arrays, tensors and frames of one's own as a scenario."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

from fedmaml.config import nearest
from fedmaml.core import losses
from fedmaml.core import metrics as measured
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.metrics import Metric
from fedmaml.simulations.arrays import Arrays as InMemory
from fedmaml.simulations.datasets.arrays import Arrays, Held, hold
from fedmaml.simulations.datasets.given import arrays_of, table_of
from fedmaml.simulations.datasets.tables import Table

_LOSSES = {loss.__name__: loss for loss in losses.CATALOGUE}
_METRICS = {one.name: one for one in vars(measured).values() if isinstance(one, Metric)}


def from_clients(
    clients: Mapping[str, Any],
    *,
    network: Literal["mlp", "linear"] | Callable[[], nn.Module] = "mlp",
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    metrics: Sequence[str | Metric] = (),
    kind: Literal["auto", "classification", "regression"] = "auto",
    test: float | Sequence[str] = 0.25,
    validation: float = 0.15,
    shots: int = 0,
    examples: int = 1000,
    seed: int = 0,
) -> InMemory:
    """Return a scenario of data in memory, one client for each entry; for ``fm.run``.

    Clients that train, that validate and that test are different ones. A training client splits its
    rows anew in each round, half support and half query. Numbers are standardised by sums over the
    training clients; a missing one (NaN) becomes the mean. It runs in this process alone.

    Args:
        clients: Name -> ``(X, y)``, or a Dataset of such pairs. X: numbers ``(rows, *features)``,
            an array, a tensor, or a frame, whose columns of text become one-hot. y: labels or
            numbers ``(rows,)``. At least 3 clients of 4 rows each.
        network: "mlp" (two layers of 32 tanh units), "linear", or what makes a module, called
            without arguments; its inputs have the shape of X. It has one output for numbers (the
            standardised target) and for two classes (the logit of the second in sorted order), else
            one for each class. Its last layer is called ``head`` if strategies are to cut there.
        loss: A name of `fedmaml.core.losses`, or (predictions, targets) -> ``(examples,)``; None:
            as suits the target.
        metrics: Names, e.g. "accuracy", or ``Metric`` values; the first is the headline; (): as
            suits the target, errors of a regression in its own unit.
        kind: "auto": classification if y has labels or at most 20 different whole numbers.
        test: Fraction of the clients that test, or their names.
        validation: Fraction of the clients that validate.
        shots: Rows on which a test client adapts; 0: half of them.
        examples: Most rows of a support, and of a query.
        seed: Determines which clients train, and splits; a run's own seed replaces it.

    Raises:
        ConfigurationError: If a name is unknown, or too few clients are left to train.
        DataError: If the data of a client do not fit; names client and row, counted from 0.
    """
    if not isinstance(clients, Mapping):
        raise ConfigurationError(f"clients is {type(clients).__name__}: pass name -> (X, y)")
    names = [str(name) for name in clients]
    if not names:
        raise ConfigurationError("clients = {}: pass name -> (X, y) for at least 3 clients")
    held, target = _examples(dict(zip(names, map(_pair, clients, clients.values()), strict=True)))
    unseen = () if isinstance(test, int | float) else tuple(map(str, test))
    for name in unseen:
        if name not in names:
            raise ConfigurationError(f"test: there is no client {name!r}{nearest(name, names)}")
    named: Literal["mlp", "linear", "own"] = "own"
    if network in ("mlp", "linear"):
        named = network
    elif not callable(network):
        raise ConfigurationError(
            f"network = {network!r}: give 'mlp', 'linear', or what makes a module"
        )
    own = network if callable(network) else None
    key = hold(
        Held(
            held, own, _known(loss, _LOSSES, "loss"),
            tuple(_known(one, _METRICS, "metric") for one in metrics), target,
        )
    )  # fmt: skip
    fractions = {} if unseen or not isinstance(test, int | float) else {"test": test}
    made = InMemory(
        seed=seed, data=key, unseen=unseen, kind=kind, network=named,
        shots=shots, examples=examples, validation=validation, **fractions,
    )  # fmt: skip
    made.problem()  # whatever does not fit is refused here
    return made


def _known(given: Any, known: Mapping[str, Any], kind: str) -> Any:
    if not isinstance(given, str):
        return given
    if given not in known:
        raise ConfigurationError(
            f"there is no {kind} {given!r}{nearest(given, known)}; known: {', '.join(known)}"
        )
    return known[given]


def _pair(name: str, given: Any) -> tuple[Any, Any]:
    """Return X and y of a client."""
    if isinstance(given, Dataset):
        rows = [given[row] for row in range(len(given))]  # type: ignore[arg-type]
        x, y = zip(*rows, strict=True) if rows else ((), ())
        return np.array([np.asarray(one) for one in x]), np.array([np.asarray(one) for one in y])
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise DataError(f"client {name!r}: give a pair (X, y), or a Dataset of pairs")
    return given[0], given[1]


def _examples(
    pairs: Mapping[str, tuple[Any, Any]],
) -> tuple[tuple[Arrays, ...] | tuple[Table, ...], str]:
    """Return all clients in one form, and the name of their target."""
    frames = [name for name, (x, _) in pairs.items() if hasattr(x, "columns")]
    if not frames:
        made = tuple(arrays_of(name, x, y) for name, (x, y) in pairs.items())
        for one in made[1:]:
            if one.x.shape[1:] != made[0].x.shape[1:]:
                raise DataError(
                    f"{one.name}: an example has shape {one.x.shape[1:]}, and one of "
                    f"{made[0].name} {made[0].x.shape[1:]}; give all the same columns"
                )
        return made, "y"
    if others := set(pairs) - set(frames):
        raise DataError(
            f"client {min(others)!r} has an array and client {frames[0]!r} a frame: give frames to "
            "all, or arrays"
        )
    columns = {str(column) for x, _ in pairs.values() for column in x.columns}
    target = str(getattr(next(iter(pairs.values()))[1], "name", None) or "y")
    while target in columns:
        target += "_"
    return tuple(table_of(name, x, y, target) for name, (x, y) in pairs.items()), target
