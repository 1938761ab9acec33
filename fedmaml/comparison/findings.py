"""What a comparison finds beside its verdicts, as data: what training took, what tuning found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedmaml.config import Flat
from fedmaml.core.counters import Units, add_counted, counted_from_json


@dataclass(frozen=True)
class TrainingCost:
    """What a strategy's training took, as its runs measured it; means over seeds.

    Attributes:
        rounds: Rounds of training.
        evaluated_rounds: For each seed, the round after which it was evaluated.
        payload_bytes: Tensors that all clients received and sent, each as a site of its own.
        flops: Operations of all clients' updates; None if not every client told.
        counters: What the examples of all clients cost, by name of the counter.
    """

    rounds: int
    evaluated_rounds: tuple[int, ...]
    payload_bytes: float
    flops: float | None
    counters: dict[str, Units] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A setting before and after tuning."""

    recipe: float
    chosen: float


@dataclass(frozen=True)
class Trial:
    """What came of one trial.

    Attributes:
        settings: What was tuned, by dotted key.
        value: Headline metric on the validation clients; None if there is none.
        wrong: Why there is none.
    """

    settings: Flat
    value: float | None
    wrong: str


@dataclass(frozen=True)
class Tuned:
    """What tuning found for one strategy.

    Attributes:
        trials: How many there were.
        failed: How many of them have no value, because they diverged.
        recipe: Headline metric of the recipe on the validation clients.
        best: The same of the settings that were chosen.
        settings: What was tuned.
        history: Every trial.
    """

    trials: int
    failed: int
    recipe: float | None
    best: float | None
    settings: dict[str, Setting]
    history: tuple[Trial, ...]


def training_cost_of(summaries: Sequence[Mapping[str, Any]]) -> TrainingCost:
    """Return what a strategy's runs took; one summary per seed."""
    totals = [summary["cost"]["totals"] for summary in summaries]
    told = all(total["updates_measured"] == total["updates"] for total in totals)
    moved = [total["payload_bytes_down"] + total["payload_bytes_up"] for total in totals]
    counted = add_counted(counted_from_json(total.get("counters", {})) for total in totals)
    return TrainingCost(
        rounds=int(summaries[0]["rounds"]),
        evaluated_rounds=tuple(int(summary["evaluated_round"]) for summary in summaries),
        payload_bytes=float(np.mean(moved)),
        flops=float(np.mean([total["flops"] for total in totals])) if told else None,
        counters={name: units / len(totals) for name, units in counted.items()},
    )
