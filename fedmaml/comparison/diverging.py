"""Strategies that diverged: they have no value and no verdict but "diverged".

`verdicts` compares the others. A strategy has diverged if its training diverged with at least one
seed, in every round or from some round to the end, since then it has no mean over all seeds; or if
its adaptation diverged at every evaluated client.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from fedmaml.comparison.contrasts import Values
from fedmaml.comparison.names import display, listed
from fedmaml.comparison.verdicts import (
    REFERENCE,
    Metric,
    Pair,
    Row,
    Verdict,
    compare_pairs,
    evaluate,
)
from fedmaml.config import flatten_table
from fedmaml.core.errors import NotComparableError
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.outcome import diverged_from, rates_of_training, what_to_lower

Runs = Mapping[str, Mapping[int, Path]]
"""Strategy -> seed -> its run directory."""

Lost = Mapping[str, str]
"""Strategy that diverged -> the sentence that says so."""

_NOTHING: dict[str, Any] = dict.fromkeys(
    ("difference", "difference_ci95", "p_clients", "p_seeds", "p_holm")
)


def found(
    runs: Runs, tables: Mapping[str, Sequence[Mapping[str, Any]]], after: Mapping[str, Values]
) -> Lost:
    """Return the strategies that diverged.

    Args:
        runs: Complete ones.
        tables: Strategy -> the configuration of each of its runs.
        after: Strategy -> values after adaptation.

    Raises:
        NotComparableError: If all that train diverged.
    """
    lost = {}
    for name, seeds in runs.items():
        since = {seed: diverged_from(RunDirectory(path)) for seed, path in seeds.items()}
        bad = [seed for seed, start in since.items() if start]
        everyone = [value for values in after[name] for value in values.values()]
        if bad:
            numbers = f"seed{'s' if len(bad) > 1 else ''} {', '.join(map(str, bad))}"
            latest = max(since.values())
            when = f"from round {latest} on" if latest > 1 else "of any round"
            cure = what_to_lower(rates_of_training(tables[name][0], latest))
            lost[name] = (
                f"{display(name)} diverged: with {numbers} no client's update {when} could be "
                f"used, all were infinite or too large; {cure}."
            )
        elif everyone and np.isinf(everyone).all():
            cure = what_to_lower(_rates_of_adaptation(tables[name][0]))
            lost[name] = f"{display(name)} diverged at every test client while it adapted; {cure}."
    training = [name for name in runs if int(tables[name][0]["rounds"])]
    if training and all(name in lost for name in training):
        raise NotComparableError(
            f"every strategy that trains diverged, so that there is nothing to compare. "
            f"{' '.join(lost[name] for name in training)} Settings that were made for all (--set, "
            "--config) reach every strategy that knows them; without them each has its recipe's"
        )
    return lost


def _rates_of_adaptation(table: Mapping[str, Any]) -> dict[str, float]:
    flat = flatten_table(table)
    own = {key: flat[key] for key in ("adaptation.lr",) if key in flat}
    return own or rates_of_training(table)


def rows(
    metric: Metric,
    rounds: Mapping[str, int],
    before: Mapping[str, Values],
    after: Mapping[str, Values],
    lost: Lost,
) -> tuple[Row, ...]:
    """Return the rows of `verdicts.evaluate`, and a row for each strategy that diverged."""
    sound = {name: number for name, number in rounds.items() if name not in lost}
    if REFERENCE in lost:  # no strategy has a verdict then, but each has its own mean
        alone = {name: _by_itself(metric, name, rounds, before, after) for name in sound}
    else:
        alone = {row.strategy: row for row in evaluate(metric, sound, before, after)}
    for name, sentence in lost.items():
        alone[name] = Row(name, rounds[name], None, None, **_NOTHING, verdict="diverged",
                          sentence=sentence)  # fmt: skip
    return tuple(alone[name] for name in rounds)


def _by_itself(
    metric: Metric,
    name: str,
    rounds: Mapping[str, int],
    before: Mapping[str, Values],
    after: Mapping[str, Values],
) -> Row:
    """Return the row of a strategy if the reference diverged at every client."""
    (as_reference,) = evaluate(
        metric, {REFERENCE: rounds[name]}, {REFERENCE: before[name]}, {REFERENCE: after[name]}
    )
    verdict: Verdict = "not comparable"
    sentence = f"{display(name)} cannot be compared with fine-tuned FedAvg, which diverged."
    if as_reference.verdict == "diverged":
        verdict = "diverged"
        sentence = (
            f"{display(name)} diverged at a test client, and so did fine-tuned FedAvg; lower the "
            "learning rate of its adaptation."
        )
    means = as_reference.before, as_reference.after
    return Row(name, rounds[name], *means, **_NOTHING, verdict=verdict, sentence=sentence)


def pairs(metric: Metric, after: Mapping[str, Values], lost: Lost) -> tuple[Pair, ...]:
    """Return the pairs of `verdicts.compare_pairs`, and void pairs of strategies that diverged."""
    sound = {name: values for name, values in after.items() if name not in lost}
    evaluated = {(pair.first, pair.second): pair for pair in compare_pairs(metric, sound)}
    names = [name for name in after if name != REFERENCE]
    return tuple(
        evaluated[two] if two in evaluated else _void(*two, lost) for two in combinations(names, 2)
    )


def _void(first: str, second: str, lost: Lost) -> Pair:
    who = listed([display(name) for name in (first, second) if name in lost])
    sentence = f"{display(first)} cannot be compared with {display(second)}: {who} diverged."
    return Pair(first, second, **_NOTHING, verdict="diverged", sentence=sentence)
