"""Schemas of a run's files: what they must hold; further entries are accepted.

Readers of a run directory need not check again that an entry exists and has its type.
"""

from dataclasses import fields
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from fedmaml.core.costs import Cost
from fedmaml.core.counters import Units
from fedmaml.core.findings import Audit
from fedmaml.core.records import Better, Event, Rejection

Number = float | None
"""None: undefined, or not finite."""
Interval = tuple[float, float] | None
Value = Annotated[Number, BeforeValidator(lambda value: None if value == "diverged" else value)]


_LACKS = "lacks"


def _whole(record: Any) -> Any:
    """Refuse a cost that lacks an entry (those of `Cost` have defaults); counters may lack."""
    if isinstance(record, dict):
        for entry in fields(Cost):
            if entry.name != "counters" and entry.name not in record:
                raise PydanticCustomError(_LACKS, "lacks {name}", {"name": entry.name})
    return record


WholeCost = Annotated[Cost, BeforeValidator(_whole)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, defer_build=True)


class Configuration(_Part):
    """``config.toml``, except the settings of scenario and strategy."""

    scenario: str
    strategy: str
    seed: int
    rounds: int
    clients: int = 0


class Round(_Part):
    """A line of ``rounds.jsonl``, see `core.records.RoundRecord`."""

    round: int
    cohort: int
    clients: int
    weight: float
    metrics: dict[str, Number]
    rejected: tuple[Rejection, ...]
    seconds: float
    seconds_clients: float
    evaluation: dict[str, Number] = {}
    cost: WholeCost
    events: tuple[Event, ...] = ()


class Client(_Part):
    """A line of ``clients.jsonl``: a client's values under ``"<column>:<stage>"``."""

    model_config = ConfigDict(extra="allow", defer_build=True)
    __pydantic_extra__: dict[str, Value]

    client: int
    groups: dict[str, str] = {}
    family: str = ""


class _Evaluated(_Part):
    mean: Number
    ci95: Interval


class _Metric(_Part):
    name: str
    unit: str
    better: Better
    before: Number
    after: Number
    ci95: Interval
    ci95_before: Interval
    at_steps: dict[str, _Evaluated] = {}
    at_shots: dict[str, _Evaluated] = {}
    diverged: dict[str, int] = {}


class _Figure(_Part):
    name: str
    unit: str
    better: Better
    family: str
    resampled: str
    before: Number
    after: Number
    ci95: Interval
    units: int
    why: str


class _Each(_Part):
    payload_bytes_down: Number
    payload_bytes_up: Number
    flops: Number
    peak_bytes: Number
    counters: dict[str, Units] = {}


class _Message(_Part):
    bytes_down: Number
    bytes_up: Number


class _Seconds(_Part):
    clients: Number
    server: Number


class _Evaluation(_Part):
    counters: dict[str, Units] = {}


class _Energy(_Part):
    joules: Number
    sensors: tuple[str, ...]
    note: str


class _Crossed(_Part):
    total: int
    objects: int


class _Socket(_Part):
    down: _Crossed
    up: _Crossed


class _Costs(_Part):
    totals: WholeCost
    per_client_and_round: _Each
    per_message: _Message
    seconds_per_round: _Seconds
    evaluation: _Evaluation
    counters: dict[str, str] = {}
    energy: _Energy
    socket: _Socket | None = None


class _Engines(_Part):
    planned: dict[str, int]
    updates: dict[str, int]


class _About(_Part):
    name: str
    about: str
    federated: bool
    oracle: bool
    settings: dict[str, Any]
    tuned_on: int


class Reference(_About):
    """An entry of ``references.json``, see `computing.references`."""

    clients: tuple[Client, ...]


class _Against(_Part):
    name: str
    mean: Number
    ci95: Interval
    difference: Number
    difference_ci95: Interval


class _Beside(_About):
    metrics: tuple[_Against, ...]


class LeftOut(_Part):
    """``left_out.json``, see `runs.left_out`."""

    count: int
    reasons: dict[str, int]
    clients: tuple[str, ...]


class Summary(_Part):
    """``summary.json``, see `server.summary.summarise`."""

    scenario: str
    strategy: str
    seed: int
    rounds: int
    backend: str
    clients_train: int
    evaluated_round: int
    selected_by: str
    evaluated_split: str
    clients_evaluated: int
    clients_asked: int
    metric: _Metric
    metrics: tuple[_Metric, ...]
    figures: tuple[_Figure, ...]
    families: dict[str, int]
    left_out: LeftOut | None = None
    distance_to_closed_form: float = 0.0
    updates_used: int
    resumed_after: tuple[int, ...] = ()
    rounds_sha256: str = ""
    rejected_replies: int
    seconds: float
    engines: _Engines
    peak_process_bytes: int | None
    cost: _Costs
    references: tuple[_Beside, ...]
    audit: Audit


def wrong_in_text(kind: Any, text: str | bytes) -> str:
    """Return the first error in JSON of a type; "" if there is none."""
    try:
        _adapter(kind).validate_json(text)
    except ValidationError as error:
        return _first(error)
    return ""


def wrong_in(kind: Any, table: Any) -> str:
    """Return the first error in plain values of a type; "" if there is none."""
    try:
        _adapter(kind).validate_python(table)
    except ValidationError as error:
        return _first(error)
    return ""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _first(error: ValidationError) -> str:
    """Return "metric.after: input should be a valid number, not 'high'"."""
    first = error.errors(include_url=False)[0]
    key, message = ".".join(map(str, first["loc"])), first["msg"]
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == _LACKS:
        return f"{key} {message}"
    if first["type"] == "json_invalid":
        return message[:1].lower() + message[1:]
    given = repr(first["input"])
    given = given if len(given) <= 40 else f"{given[:37]}..."
    place = f"{key}: " if key else ""
    return f"{place}{message[:1].lower()}{message[1:]}, not {given}"
