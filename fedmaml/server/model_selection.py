"""Model selection: a run evaluates the meta-parameters of its last round, or of its best one.

Validation clients decide which round is best, never test clients: the best round on test clients is
a maximum over noise, and favours the strategy that is evaluated most often. Clients with a memory
keep that of the last round; `fedmaml.config` refuses configurations that would evaluate such a
memory with the meta-parameters of an earlier round.
"""

import math
from dataclasses import dataclass

from fedmaml.core.metrics import Metric
from fedmaml.core.params import MetaParams
from fedmaml.core.records import RoundRecord


@dataclass(frozen=True)
class Chosen:
    """A round and its meta-parameters.

    Attributes:
        round: Its number; 0: before training.
        meta: The meta-parameters after it.
        validation: Mean headline metric of the validation clients after adaptation; None if they
            were not evaluated, or it is undefined at all of them.
    """

    round: int
    meta: MetaParams
    validation: float | None = None


def candidate(record: RoundRecord, meta: MetaParams, metric: Metric) -> Chosen:
    """Return a finished round as one to choose from."""
    value = record.evaluation.get(f"{metric.name}:after", math.nan)
    return Chosen(record.round, meta, None if math.isnan(value) else value)


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
