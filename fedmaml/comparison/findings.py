"""Results of a comparison beside its verdicts, as data: cost of training, results of tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedmaml.config import Flat
from fedmaml.core.counters import Units, add_counted, counted_from_json


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a strategy's training, as its runs measured it; means over seeds.

    Attributes:
        rounds: Rounds of training.
        evaluated_rounds: For each seed, the round after which it was evaluated.
        payload_bytes: Tensors that all clients received and sent, each as a site of its own.
        flops: Operations of all clients' updates; None if not every client reported them.
        counters: Units of the examples of all clients, by name of the counter.
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
    """The result of one trial.

    Attributes:
        settings: The tuned settings, by dotted key.
        value: Headline metric on the validation clients; None if it has none.
        wrong: The reason, if it has none.
    """

    settings: Flat
    value: float | None
    wrong: str


@dataclass(frozen=True)
class Tuned:
    """The result of tuning one strategy.

    Attributes:
        trials: Number of trials.
        failed: Number of trials without a value, because they diverged.
        recipe: Headline metric of the recipe on the validation clients.
        best: The same of the settings that were chosen.
        settings: The tuned settings.
        history: Every trial.
    """

    trials: int
    failed: int
    recipe: float | None
    best: float | None
    settings: dict[str, Setting]
    history: tuple[Trial, ...]


def training_cost_of(summaries: Sequence[Mapping[str, Any]]) -> TrainingCost:
    """Return the cost of a strategy's runs; one summary per seed."""
    totals = [summary["cost"]["totals"] for summary in summaries]
    known = all(total["updates_measured"] == total["updates"] for total in totals)
    moved = [total["payload_bytes_down"] + total["payload_bytes_up"] for total in totals]
    counted = add_counted(counted_from_json(total.get("counters", {})) for total in totals)
    return TrainingCost(
        rounds=int(summaries[0]["rounds"]),
        evaluated_rounds=tuple(int(summary["evaluated_round"]) for summary in summaries),
        payload_bytes=float(np.mean(moved)),
        flops=float(np.mean([total["flops"] for total in totals])) if known else None,
        counters={name: units / len(totals) for name, units in counted.items()},
    )
