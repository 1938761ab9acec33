"""What happened in a round, as data: what was used, and what was left out with its reason."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedmaml.core.costs import Cost

Better = Literal["higher", "lower", "neither"]
"""Which values of a metric are better; "neither" for input of figures only."""

REASONS = {
    "RAISED": "the client's code raised an error",
    "DATA": "the client's labels are no classes of the problem, or its numbers are not finite",
    "NO_REPLY": "no answer arrived before the deadline, or the node went away",
    "NONFINITE": "the update holds NaN or infinity",
    "RANGE": "the update is too large to be a step: something diverged",
    "KEYS": "a record or an array is missing, unknown or twice there",
    "SHAPE": "an array has another shape than the meta-parameters",
    "DTYPE": "an array has another type than the meta-parameters",
    "CODE": "the method of compression can have made no such update",
    "COST": "what the client says it computed, or spent on its examples, is missing or not a whole "
    "number >= 0",
    "WEIGHT": "num-examples is not a whole number from 1 to 10^9, or more than the client's node "
    "declared in the roll call",
    "METRIC": "a metric is outside its range",
    "NORM": "the update is many times as large as the others of its round",
    "CLIENTS": "the reply speaks for other clients than were asked",
    "HASH": "the body of the reply is not the one that its node sealed",
    "SIGNATURE": "the reply is not signed, or not with the key that was approved for its site",
    "STALE": "the reply belongs to another round, run or request",
    "VERSION": "the reply was computed from other meta-parameters, or by another version of "
    "fedmaml",
    "MEMORY": "the node lacks the memory that belongs to the client's last used update; the client "
    "starts anew in its next round",
    "QUORUM": "too few clients' updates could be used for a step",
    "RULE": "the aggregation rule could not be applied to the replies that were left",
}
"""Why an update was not used; the word stands in rounds.jsonl."""


@dataclass(frozen=True)
class Rejection:
    """An update that was left out of a round.

    Attributes:
        reason: A key of `REASONS`.
        detail: What exactly was wrong; never contains data values.
        node: Flower node id as text, "" if unknown.
        clients: Numbers of the clients whose updates are left out.
    """

    reason: str
    detail: str
    node: str = ""
    clients: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a reason that `REASONS` does not list."""
        if self.reason not in REASONS:
            raise ValueError(f"unknown reason {self.reason!r}; known: {', '.join(REASONS)}")


@dataclass(frozen=True)
class Event:
    """What happened to a run between two rounds.

    Attributes:
        what: A site joined, left or was refused (at a roll call), or the run was resumed.
        node: Name of the site, or Flower node id as text; "" for the run.
        why: Why it was refused.
    """

    what: Literal["joined", "left", "resumed", "refused"]
    node: str = ""
    why: str = ""


@dataclass(frozen=True)
class RoundRecord:
    """One finished round.

    Attributes:
        round: From 1.
        cohort: Number of clients selected.
        clients: Number of clients whose updates were used.
        weight: Sum of their num-examples.
        metrics: Weighted means over the clients used, e.g. loss_before, loss_after.
        rejected: Updates that were left out, with the reason.
        seconds: Wall time of the round; ``seconds_clients`` of it was spent waiting for replies.
        evaluation: Mean metrics on validation clients, in rounds that evaluate.
        cost: Cost of the round's training.
        events: What happened before it.
        validation: What the round is selected by, if it is (`server.model_selection`); it is not
            written. None: undefined.
    """

    round: int
    cohort: int
    clients: int
    weight: float
    metrics: dict[str, float]
    rejected: tuple[Rejection, ...]
    seconds: float
    seconds_clients: float
    evaluation: dict[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    events: tuple[Event, ...] = ()
    validation: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; empty parts are left out."""
        record = vars(self) | {
            "rejected": [asdict(rejection) for rejection in self.rejected],
            "cost": self.cost.to_json(),
            "events": [asdict(event) for event in self.events],
        }
        for name in ("metrics", "evaluation"):  # JSON has no infinity
            means = record[name].items()
            record[name] = {key: value if math.isfinite(value) else None for key, value in means}
        del record["validation"]
        for name in ("evaluation", "events"):
            if not record[name]:
                del record[name]
        return record
