"""Which round's meta-parameters a run is evaluated by: the last one's, or the best on validation.

Test clients have no say in it: the best round on test clients is a maximum over noise, and flatters
whoever is evaluated most often. Clients that keep a memory keep that of the last round; a
configuration in which that could be evaluated beside an earlier round's meta-parameters is refused
(`fedmaml.config`).
"""

import math
from dataclasses import dataclass

from fedmaml.core.metrics import Metric
from fedmaml.core.params import MetaParams
from fedmaml.core.records import RoundRecord


@dataclass(frozen=True)
class Chosen:
    """A round and what it left.

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
    """Return the better of two rounds on the validation clients; the earlier of equals.

    A round that has a value is better than one that has none; of two without, it is the later one.
    """
    earlier, later = sorted((one, other), key=lambda chosen: chosen.round)
    if earlier.validation is None or later.validation is None:
        return later if earlier.validation is None else earlier
    gain = later.validation - earlier.validation
    if math.isnan(gain):  # both diverged
        return earlier
    return later if (gain > 0 if metric.better == "higher" else gain < 0) else earlier
