"""What the verbs of a strategy return, looked at once before a run.

A strategy of one's own that returns something else is refused by the name of its verb, and what
the verb must return: what clients send is added up by place, so it has the layout of ``meta``.
"""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.params import MetaParams, Params
from fedmaml.strategies.base import ClientUpdate, Initialised, MetaStrategy, ServerState


def refuse_other_start(start: object) -> None:
    """Refuse what is no start of a run.

    Raises:
        ConfigurationError: If `build` returned something else.
    """
    _check_kind("build", start, Initialised, "an Initialised(learner, state, memory)")


def refuse_other_predictor(predictor: object) -> None:
    """Refuse what is no function of inputs.

    Raises:
        ConfigurationError: If `adapt` returned something else.
    """
    if not callable(predictor):
        raise ConfigurationError(f"adapt returned {_kind(predictor)}, not a predictor")


def refuse_other_update(
    update: object, strategy: MetaStrategy, meta: MetaParams, memory: Params
) -> None:
    """Refuse what is no update of one client.

    Raises:
        ConfigurationError: If `client_update` returned something else.
    """
    _check_kind("client_update", update, ClientUpdate, "a ClientUpdate")
    assert isinstance(update, ClientUpdate)
    _check_layout("client_update returned an update", update.update, meta)
    _check_layout("client_update returned a memory", {"": update.memory}, {"": memory})
    weight: Any = update.weight
    if not isinstance(weight, Tensor) or weight.shape or weight.dtype != torch.float64:
        raise ConfigurationError(
            f"client_update returned the weight {weight!r}: it is the number of examples, as a "
            "float64 scalar (fedmaml.core.learner.example_count)"
        )
    known = strategy.facts.metrics
    for name, value in dict(update.metrics).items():
        if name not in known or not isinstance(value, Tensor) or value.shape:
            raise ConfigurationError(
                f"client_update returned the metric {name!r}, {_kind(value)}: metrics are scalar "
                f"tensors with the names that facts declare, {', '.join(known)}"
            )


def refuse_other_step(after: object, before: ServerState) -> None:
    """Refuse a state of the server that could not be sent.

    Raises:
        ConfigurationError: If `server_update` returned something else, or NaN.
    """
    _check_kind("server_update", after, ServerState, "a ServerState")
    assert isinstance(after, ServerState)
    _check_layout("server_update returned meta", after.meta, before.meta)
    for group, params in after.meta.items():
        for name, value in params.items():
            if value.isnan().any():
                raise ConfigurationError(
                    f"server_update made {group}/{name} NaN of a finite update: mend it, or lower "
                    "its rate"
                )


def _check_kind(verb: str, returned: object, wanted: type, what: str) -> None:
    if not isinstance(returned, wanted):
        raise ConfigurationError(f"{verb} returned {_kind(returned)}, not {what}")


def _check_layout(said: str, found: object, wanted: Mapping[str, Params]) -> None:
    """Refuse tensors with other names, in another order, or of other shapes."""
    for one, other in zip_longest(_layout(found), _layout(wanted)):
        if one != other:
            raise ConfigurationError(
                f"{said} that has {one or 'nothing'} where {other or 'nothing'} is wanted: "
                "groups, names and shapes are those that the strategy was given, in the same order"
            )


def _layout(tree: object) -> list[str]:
    """Return group, name and shape of each tensor in words."""
    if not isinstance(tree, Mapping):
        return [_kind(tree)]
    found = []
    for group, params in tree.items():
        if not isinstance(params, Mapping):
            found.append(f"{group}: {_kind(params)}")
            continue
        for name, value in params.items():
            shape = tuple(value.shape) if isinstance(value, Tensor) else _kind(value)
            found.append(f"{group}/{name} {shape}".removeprefix("/"))
    return found


def _kind(value: object) -> str:
    return type(value).__name__
