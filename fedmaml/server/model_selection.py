"""Model selection: a run evaluates the meta-parameters of its last round, or of its best one.

Validation clients decide which round is best, never test clients: the best round on test clients is
a maximum over noise, and favours the strategy that is evaluated most often. Clients with a memory
keep that of the last round; `fedmaml.config` refuses configurations that would evaluate such a
memory with the meta-parameters of an earlier round.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedmaml.core.metrics import Metric, mean_metrics
from fedmaml.core.params import MetaParams
from fedmaml.core.records import RoundRecord

FENCE = 3.0
FEWEST_TO_COMPARE = 3


@dataclass(frozen=True)
class Chosen:
    """A round and its meta-parameters.

    Attributes:
        round: Its number; 0: before training.
        meta: The meta-parameters after it.
        validation: `value_of` the validation clients; None if they were not evaluated, or it is
            undefined at all of them.
    """

    round: int
    meta: MetaParams
    validation: float | None = None


def value_of(metric: Metric, evaluated: Mapping[str, Sequence[float]]) -> float | None:
    """Return what a round is selected by: the mean of the headline metric after adaptation.

    A value far from those of most clients counts as one at the fence, 3 times the distance between
    the quartiles away from them (Tukey's far-out values), so that one site cannot choose the round.

    Args:
        metric: The headline metric.
        evaluated: ``"<column>:<stage>"`` -> one value per client.
    """
    values = [value for value in evaluated.get(f"{metric.name}:after", ()) if not math.isnan(value)]
    if len(values) >= FEWEST_TO_COMPARE:
        quarter, rising = max(1, len(values) // 4), sorted(values)
        low, high = rising[quarter], rising[-1 - quarter]
        if math.isfinite(low) and math.isfinite(high):  # else it is not one site that diverged
            away = FENCE * (high - low)
            values = [min(max(value, low - away), high + away) for value in values]
    return mean_metrics({"": values}, [1.0] * len(values)).get("")


def candidate(record: RoundRecord, meta: MetaParams) -> Chosen:
    """Return a finished round as one to choose from."""
    return Chosen(record.round, meta, record.validation)


def better(one: Chosen, other: Chosen, metric: Metric) -> Chosen:
    """Return the better of two rounds on the validation clients; of equals, the earlier one.

    A round with a value is better than one without; of two without, the later one is better.
    """
    earlier, later = sorted((one, other), key=lambda chosen: chosen.round)
    if earlier.validation is None or later.validation is None:
        return later if earlier.validation is None else earlier
    gain = later.validation - earlier.validation
    if math.isnan(gain):  # both diverged
        return earlier
    return later if (gain > 0 if metric.better == "higher" else gain < 0) else earlier
