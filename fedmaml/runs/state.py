"""Everything a run needs to continue, as tensors and texts; `runs.journal` keeps them on disk.

    meta/<group>/<name>        meta-parameters after the round
    optimizer/<name>           state of the outer optimiser
    best/<group>/<name>        meta-parameters of the best round, if it is an earlier one
    shared_statistics/<name>   totals of the roll call
    senders                    clients whose statistics these are
    used/clients, used/rounds  clients with a memory, and the rounds of their last used updates ...
    used/bases                 ... and the first 64 bits of the fingerprints of these updates' bases
    clients/<kind>             numbers of the clients that keep a memory of one kind ...
    memory/<kind>/<name>       ... and what they keep, stacked in that order

The texts are ``round``, ``finished_rounds`` (those whose updates were used), ``best_round``,
``best_validation`` ("" if it is undefined), ``memories`` ("here", or "nodes": under Flower's
simulation and deployment the nodes keep them), ``costs`` (measured by nodes in this process),
``totals`` and ``lines``, as JSON. Nothing else must be saved: cohorts, tasks and noise are
functions of seed and round.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedmaml.core.costs import Computation, Cost
from fedmaml.core.counters import counted_json
from fedmaml.core.params import MetaParams, Params, sha256
from fedmaml.core.requests import Used
from fedmaml.runs.chain import Lines
from fedmaml.strategies.base import ServerState

_SIGNED = 2**63


@dataclass(frozen=True)
class Totals:
    """Sums over the finished rounds, and what the run has been through.

    Attributes:
        updates: Updates that were used.
        left_out: Updates that were left out.
        cost: Of the training rounds.
        evaluation_cost: Of all evaluations.
        engines: Engine -> how many of the used updates it computed.
        traffic: Type of message -> what the Grid has counted.
        sizes: Bytes of messages by their shapes, see `server.metered_grid`.
        seconds: Wall time, from each start of the run to the last finished round.
        resumed_after: Rounds after which the run was resumed.
        nodes: Names of the sites that answered the last roll call.
    """

    updates: int = 0
    left_out: int = 0
    cost: Cost = field(default_factory=Cost)
    evaluation_cost: Cost = field(default_factory=Cost)
    engines: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    resumed_after: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return JSON."""
        costs = {name: _plain(getattr(self, name)) for name in ("cost", "evaluation_cost")}
        return json.dumps(asdict(self) | costs)

    @classmethod
    def from_text(cls, text: str) -> "Totals":
        """Undo `to_text`."""
        table = json.loads(text)
        costs = {name: Cost.from_json(table[name]) for name in ("cost", "evaluation_cost")}
        tuples = {name: tuple(table[name]) for name in ("resumed_after", "nodes")}
        return cls(**(table | costs | tuples))


@dataclass(frozen=True)
class RunState:
    """A run after a round.

    Attributes:
        round: The last finished round; 0: none is.
        server: Meta-parameters and outer optimiser.
        shared_statistics: Totals of the roll call.
        senders: Clients whose statistics these are.
        used: Client -> its last used update, of clients that keep a memory.
        memories: Client -> its memory after that update, error feedback included; None: the nodes
            hold it.
        costs: Costs of updates as nodes in this process have measured them.
        best_round: The round that would be evaluated if training ended here.
        best_meta: Its meta-parameters.
        best_validation: Its value on the validation clients; None: undefined.
        totals: Sums over the rounds.
        lines: What of ``rounds.jsonl`` belongs to these rounds.
    """

    round: int
    server: ServerState
    shared_statistics: Params = field(default_factory=dict)
    senders: tuple[int, ...] = ()
    used: Mapping[int, Used] = field(default_factory=dict)
    memories: Mapping[int, Params] | None = None
    costs: Mapping[str, Computation] = field(default_factory=dict)
    best_round: int = 0
    best_meta: MetaParams = field(default_factory=dict)
    best_validation: float | None = None
    totals: Totals = field(default_factory=Totals)
    lines: Lines = field(default_factory=Lines)

    def with_totals(self, **changes: Any) -> "RunState":
        """Return the same state with other totals."""
        return replace(self, totals=replace(self.totals, **changes))


def meta_to_bytes(meta: MetaParams, round: int) -> bytes:
    """Return the file that holds the meta-parameters of a round, which knows their SHA-256."""
    named = _grouped("", meta)
    contiguous = {name: value.contiguous() for name, value in named.items()}
    return save(contiguous, {"round": str(round), "sha256": sha256(meta)})


def read_meta(path: Path) -> MetaParams:
    """Read a file that `meta_to_bytes` made.

    Raises:
        ValueError: If it is missing, damaged, or does not hold what was written.
    """
    meta: MetaParams = {}
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            for full_name in file.keys():  # noqa: SIM118 (it is no mapping)
                group, _, name = full_name.partition("/")
                meta.setdefault(group, {})[name] = file.get_tensor(full_name)
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from error
    if texts.get("sha256") != sha256(meta):
        raise ValueError("its SHA-256 is not that of its content")
    return meta


def round_of_meta(path: Path) -> str:
    """Return the round that a file of `meta_to_bytes` names; "" if it names none."""
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("round", ""))


def _plain(cost: Cost) -> dict[str, Any]:
    """Return what `Cost.from_json` reads, without rounding seconds."""
    return asdict(cost) | {"counters": counted_json(cost.counters)}


def to_parts(state: RunState) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the texts that hold a state."""
    tensors = _grouped("meta/", state.server.meta)
    tensors |= {f"optimizer/{name}": value for name, value in state.server.optimizer.items()}
    if state.best_round != state.round:
        tensors |= _grouped("best/", state.best_meta)
    statistics = state.shared_statistics.items()
    tensors |= {f"shared_statistics/{name}": value for name, value in statistics}
    tensors |= {"senders": torch.tensor(state.senders, dtype=torch.int64)} if state.senders else {}
    tensors |= _of_used(state.used) | _stacked(state.memories or {})
    best = state.best_validation
    return tensors, {
        "round": str(state.round),
        "finished_rounds": str(state.server.finished_rounds),
        "memories": "nodes" if state.memories is None else "here",
        "best_round": str(state.best_round),
        "best_validation": "" if best is None else repr(best),
        "costs": json.dumps({key: astuple(cost) for key, cost in state.costs.items()}),
        "totals": state.totals.to_text(),
        "lines": json.dumps(state.lines),
    }


def from_parts(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> RunState:
    """Undo `to_parts`.

    Raises:
        KeyError, ValueError, TypeError: If parts are missing or are not what they should be.
    """
    groups: dict[str, MetaParams] = {"meta": {}, "best": {}}
    flat: dict[str, Params] = {
        name: {} for name in ("optimizer", "shared_statistics", "clients", "used", "senders")
    }
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
    meta, round = groups["meta"], int(texts["round"])
    memories = {
        int(client): {name: stack[position].clone() for name, stack in kinds[kind].items()}
        for kind, clients in flat["clients"].items()
        for position, client in enumerate(clients.tolist())
    }
    best = texts["best_validation"]
    return RunState(
        round=round,
        server=ServerState(meta, flat["optimizer"], int(texts["finished_rounds"])),
        shared_statistics=flat["shared_statistics"],
        senders=tuple(int(c) for value in flat["senders"].values() for c in value.tolist()),
        used=_used(flat["used"]),
        memories=None if texts["memories"] == "nodes" else dict(sorted(memories.items())),
        costs={key: Computation(*each) for key, each in json.loads(texts["costs"]).items()},
        best_round=int(texts["best_round"]),
        best_meta=groups["best"] or meta,
        best_validation=float(best) if best else None,
        totals=Totals.from_text(texts["totals"]),
        lines=Lines(*json.loads(texts["lines"])),
    )


def _grouped(what: str, meta: MetaParams) -> dict[str, Tensor]:
    return {
        f"{what}{group}/{name}": value
        for group, params in meta.items()
        for name, value in params.items()
    }


def _of_used(used: Mapping[int, Used]) -> dict[str, Tensor]:
    """Return the last used updates as columns; a base has 16 hexadecimal digits, or none."""
    if not used:
        return {}
    bases = [int(update.base or "0", 16) - _SIGNED for update in used.values()]
    return {
        "used/clients": torch.tensor(list(used)),
        "used/rounds": torch.tensor([update.round for update in used.values()]),
        "used/bases": torch.tensor(bases),
    }


def _used(columns: Params) -> dict[int, Used]:
    if not columns:
        return {}
    rows = zip(*(columns[name].tolist() for name in ("clients", "rounds", "bases")), strict=True)
    return {client: Used(round, f"{base + _SIGNED:016x}") for client, round, base in rows}


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
