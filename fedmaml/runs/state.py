"""The files of tensors: ``theta.safetensors``, and everything a run needs to continue.

In ``theta.safetensors``, ``<group>/<name>`` is a meta-parameter. In ``state.safetensors``:

    meta/<group>/<name>        meta-parameters after the round
    optimizer/<name>           state of the outer optimiser
    best/<group>/<name>        meta-parameters of the best round, if it is an earlier one
    shared_statistics/<name>   totals of the roll call
    clients/<kind>             numbers of the clients that keep a memory of one kind ...
    memory/<kind>/<name>       ... and what they keep, stacked in that order

Its metadata are texts: ``round``, ``finished_rounds`` (those whose updates were used),
``best_round``, ``best_validation`` ("" if it is undefined), ``config`` (SHA-256 of config.toml),
``format``, ``names`` (of all tensors, in their order, which the outer optimiser's flat state relies
on) and ``memories``: "here", or "nodes". Under Flower's simulation and deployment clients' memories
are held by the nodes that host them, in their Flower context, and are in no file of the server.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from fedmaml.core.errors import RunDirectoryError
from fedmaml.core.params import MetaParams, Params
from fedmaml.strategies.base import ServerState

_FORMAT = "1"
_CURE = "run it again: fedmaml run --config"


@dataclass(frozen=True)
class RunState:
    """A run after a round.

    Attributes:
        round: The last finished round; 0: none is.
        server: Meta-parameters and outer optimiser.
        shared_statistics: Totals of the roll call.
        memories: Client -> its memory, error feedback included; None: the nodes hold it.
        best_round: The round that would be evaluated if training ended here.
        best_meta: Its meta-parameters.
        best_validation: Its value on the validation clients; None: undefined.
    """

    round: int
    server: ServerState
    shared_statistics: Params = field(default_factory=dict)
    memories: Mapping[int, Params] | None = None
    best_round: int = 0
    best_meta: MetaParams = field(default_factory=dict)
    best_validation: float | None = None


def meta_to_bytes(meta: MetaParams) -> bytes:
    """Return the file that holds meta-parameters."""
    return save(
        {
            f"{group}/{name}": value.contiguous()
            for group, params in meta.items() for name, value in params.items()
        }
    )  # fmt: skip


def read_meta(path: Path) -> MetaParams:
    """Read a file that `meta_to_bytes` made."""
    meta: MetaParams = {}
    for full_name, value in load_file(path).items():
        group, _, name = full_name.partition("/")
        meta.setdefault(group, {})[name] = value
    return meta


def to_bytes(state: RunState, config_sha256: str) -> bytes:
    """Return the file that holds a state."""
    tensors = _grouped("meta", state.server.meta)
    tensors |= {f"optimizer/{name}": value for name, value in state.server.optimizer.items()}
    if state.best_round != state.round:
        tensors |= _grouped("best", state.best_meta)
    tensors |= {
        f"shared_statistics/{name}": value for name, value in state.shared_statistics.items()
    }
    tensors |= _stacked(state.memories or {})
    best = state.best_validation
    metadata = {
        "format": _FORMAT,
        "config": config_sha256,
        "round": str(state.round),
        "finished_rounds": str(state.server.finished_rounds),
        "memories": "nodes" if state.memories is None else "here",
        "best_round": str(state.best_round),
        "best_validation": "" if best is None else repr(best),
        "names": json.dumps(list(tensors)),
    }
    # Copies: the same tensor may stand at two places, which safetensors refuses.
    return save({name: value.detach().clone() for name, value in tensors.items()}, metadata)


def read_state(path: Path, config_sha256: str) -> RunState:
    """Read a file that `to_bytes` made.

    Raises:
        RunDirectoryError: If there is none, or it is damaged or another configuration's.
    """
    again = f"{_CURE} {path.parent / 'config.toml'} --out {path.parent} --force"
    if not path.exists():
        raise RunDirectoryError(
            f"{path} is not there: the run has saved no state yet, or an older fedmaml made it; "
            f"{again}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if (found := metadata.get("format")) != _FORMAT:
                raise RunDirectoryError(
                    f"{path} has format {found}, this fedmaml reads {_FORMAT}: use the version "
                    f"that wrote it, or {again}"
                )
            if metadata["config"] != config_sha256:
                raise RunDirectoryError(
                    f"{path} belongs to another configuration than config.toml beside it, which "
                    f"was changed since; put it back, or {again}"
                )
            tensors = {name: file.get_tensor(name) for name in json.loads(metadata["names"])}
        return _state(tensors, metadata)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunDirectoryError(f"{path} is damaged ({error}); {again}") from error


def _state(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> RunState:
    groups: dict[str, MetaParams] = {"meta": {}, "best": {}}
    flat: dict[str, Params] = {"optimizer": {}, "shared_statistics": {}, "clients": {}}
    kinds: dict[str, Params] = {}
    for full_name, value in tensors.items():
        what, _, rest = full_name.partition("/")
        first, _, name = rest.partition("/")
        if what in flat:
            flat[what][rest] = value
        elif what == "memory":
            kinds.setdefault(first, {})[name] = value
        else:
            groups[what].setdefault(first, {})[name] = value
    meta, round = groups["meta"], int(metadata["round"])
    memories = {
        int(client): {name: stack[position].clone() for name, stack in kinds[kind].items()}
        for kind, clients in flat["clients"].items()
        for position, client in enumerate(clients.tolist())
    }
    best = metadata["best_validation"]
    return RunState(
        round=round,
        server=ServerState(meta, flat["optimizer"], int(metadata["finished_rounds"])),
        shared_statistics=flat["shared_statistics"],
        memories=None if metadata["memories"] == "nodes" else dict(sorted(memories.items())),
        best_round=int(metadata["best_round"]),
        best_meta=groups["best"] or meta,
        best_validation=float(best) if best else None,
    )


def _grouped(what: str, meta: MetaParams) -> dict[str, Tensor]:
    return {
        f"{what}/{group}/{name}": value
        for group, params in meta.items()
        for name, value in params.items()
    }


def _stacked(memories: Mapping[int, Params]) -> dict[str, Tensor]:
    """Stack the memories of clients that keep the same names, types and shapes."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for client in sorted(memories):
        layout = tuple((name, v.dtype, v.shape) for name, v in memories[client].items())
        kinds.setdefault(layout, []).append(client)
    tensors: dict[str, Tensor] = {}
    for kind, clients in enumerate(kinds.values()):
        tensors[f"clients/{kind}"] = torch.tensor(clients)
        for name in memories[clients[0]]:
            stack = torch.stack([memories[client][name] for client in clients])
            tensors[f"memory/{kind}/{name}"] = stack
    return tensors
