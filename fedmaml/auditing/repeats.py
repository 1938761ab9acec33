"""Whether equal examples on both sides of a split are the same example, or twins in the data.

Real data hold examples that are equal by chance. A random split puts two of them on different sides
about as often as on one side; an example that was put on both sides always lies on both. So each
repeated value of a task is one observation: is it on both sides? With m copies among n examples, of
which s are support and q query,

    P(both sides) = 1 - prod_{i<m} (s - i) / (n - i) - prod_{i<m} (q - i) / (n - i)

Equal examples have equal labels, so where labels are classes, n, s and q count one class; then the
formula holds for splits that are even by class, too. The number of values that lie across is a sum
of independent coins; `tail` is the probability of a number at least as large.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedmaml.auditing.sample import TaskKeys
from fedmaml.core.findings import Severity

_CHANCE = 1e-3
"""A split that is less probable than this is not taken for random."""
_RARE = 0.01
"""Up to this share of query examples with a twin in the support set changes a result little."""
_MAX_VALUES = 1000


@dataclass(frozen=True)
class Repeats:
    """Repeated examples in one task or in many.

    Attributes:
        queries: Query examples looked at.
        copied: Query examples that are in the support set, too.
        across: For each repeated value: is it on both sides?
        chances: For each: the probability of that in a random split.
    """

    queries: int = 0
    copied: int = 0
    across: tuple[bool, ...] = ()
    chances: tuple[float, ...] = ()

    def __add__(self, other: "Repeats") -> "Repeats":
        """Return both."""
        return Repeats(
            self.queries + other.queries,
            self.copied + other.copied,
            self.across + other.across,
            self.chances + other.chances,
        )

    @property
    def share(self) -> float:
        """Return the part of the query examples that are in the support set."""
        return self.copied / max(self.queries, 1)

    def tail(self) -> float:
        """Return the probability of this many values or more on both sides of a random split."""
        return _tail(sum(self.across[:_MAX_VALUES]), self.chances[:_MAX_VALUES])

    def verdict(self) -> tuple[Severity, str]:
        """Return the severity and the reason."""
        tail, always = self.tail(), all(self.across)
        if tail < _CHANCE:
            return "leak", (
                "a random split of repeated examples has this many on both sides with probability "
                f"{tail:.0e}, so the same examples are put on both"
            )
        if always and self.share >= 0.5:
            return "leak", "no example is repeated on one side only, and most are on both"
        if always and tail > 0.05:
            why = "too few to distinguish the same example from an equal one in the data"
        else:
            why = (
                f"{len(self.across) - sum(self.across)} of {len(self.across)} repeated values lie "
                "on one side, as in a random split of data that hold equal examples"
            )
        return ("note" if self.share < _RARE else "warning"), why


def repeats_of(tasks: Iterable[TaskKeys]) -> Repeats:
    """Return the repeats in one client's tasks; a split that occurs again counts once."""
    total = Repeats()
    known: set[tuple[bytes, ...]] = set()
    for task in tasks:
        if task.support.examples not in known:
            known.add(task.support.examples)
            total += _repeats(task)
    return total


def _repeats(task: TaskKeys) -> Repeats:
    support, query = task
    everything = support.examples + query.examples
    if len(set(everything)) == len(everything):
        return Repeats(len(query.examples))
    left, right = Counter(support.examples), Counter(query.examples)
    copied = sum(count for value, count in right.items() if value in left)
    counts = left + right
    repeated = [value for value, count in counts.items() if count > 1]
    labelled = bool(support.labels) and bool(query.labels)
    sizes = [Counter(side.labels) for side in task] if labelled else []
    label_of = dict(zip(support.examples, support.labels, strict=False))
    label_of |= dict(zip(query.examples, query.labels, strict=False))
    across, chances = [], []
    for value in repeated:
        s, q = (
            (size[label_of[value]] for size in sizes)
            if labelled
            else (len(support.examples), len(query.examples))
        )
        across.append(value in left and value in right)
        chances.append(_chance_of_both(counts[value], s, q))
    return Repeats(len(query.examples), copied, tuple(across), tuple(chances))


def _chance_of_both(copies: int, support: int, query: int) -> float:
    one_side = 0.0
    for side in (support, query):
        chance = 1.0
        for i in range(min(copies, side + 1)):
            chance *= (side - i) / (support + query - i)
        one_side += chance
    return 1.0 - one_side


def _tail(count: int, chances: Sequence[float]) -> float:
    """Return P(at least ``count`` of independent coins show heads)."""
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, [1.0 - chance, chance])
    return float(distribution[count:].sum())
