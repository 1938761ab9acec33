"""The terms of a comparison: how long everybody trains, and by which round everybody is evaluated.

    recipes   every strategy trains as many rounds as its recipe says
    rounds    every strategy trains the same number of rounds
    bytes     every strategy trains as many rounds as the budget of tensors sent allows
    flops     every strategy trains as many rounds as the budget of clients' operations allows
    NAME      every strategy trains as many rounds as the budget of the counter NAME allows

The budget is what fine-tuned FedAvg takes by its recipe, or in the rounds that were asked for. A
round of another strategy is estimated (`fedmaml.estimating`), which for bytes, operations and
counters is a count, not a guess. Counters are the scenario's (`fedmaml.core.counters`); a budget of
one is of support and query together. "local" has no rounds and is on no terms.

Where a scenario has validation clients, they choose the round that is evaluated, from about
`EVALUATIONS` of them; otherwise it is the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmaml.comparison.given import given_to
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.config import Flat, RunConfig, nearest, resolve
from fedmaml.core.counters import Units
from fedmaml.core.errors import ConfigurationError
from fedmaml.estimating import estimate
from fedmaml.strategies import CATALOGUE as STRATEGIES

EQUAL = ("recipes", "rounds", "bytes", "flops")
"""What may be the same for all, beside the scenario's counters."""

EVALUATIONS = 20
"""So many times, about, the validation clients are evaluated in a run."""


@dataclass(frozen=True)
class Terms:
    """What holds for every strategy.

    Attributes:
        equal: What is the same for all: a word of `EQUAL`, or the name of a counter.
        budget: How much of it: rounds, bytes, operations or units of a counter of a whole run;
            None with "recipes".
        reference_rounds: In how many rounds FedAvg, by its recipe, takes the budget.
        given: Settings that the user has made, see `comparison.given`; neither tuned nor replaced.
    """

    equal: str
    budget: int | None
    reference_rounds: int | None
    given: Mapping[str, Any]


def agree(scenario: str, given: Flat, rounds: int | None, equal: str | None) -> Terms:
    """Return the terms.

    Args:
        scenario: Name in the catalogue.
        given: Settings for all, and for one strategy alone.
        rounds: Rounds of training, FedAvg's where a budget is shared; None: as in the recipes.
        equal: A word of `EQUAL`, or the name of a counter; None: "rounds" if they are given, else
            "recipes".

    Raises:
        ConfigurationError: If there is no such word.
    """
    asked = rounds if rounds is not None else given.get("rounds")
    if asked is None and equal in (None, "recipes"):
        return Terms("recipes", None, None, given)
    if asked is not None and equal == "recipes":
        raise ConfigurationError(
            f"equal = 'recipes' takes each recipe's rounds, and rounds = {asked} are asked for; "
            "leave one of them out"
        )
    own = given_to(given, scenario, REFERENCE)
    own.pop("evaluation.select", None)  # it says nothing about cost, and needs `settle`
    main: Flat = {"scenario": scenario, "strategy": REFERENCE}
    reference = resolve(own, main, {} if asked is None else {"rounds": asked})
    known = (*EQUAL, *(counter.name for counter in reference.make_problem().counters))
    if equal is not None and equal not in known:
        raise ConfigurationError(
            f"equal = {equal!r}: allowed: {', '.join(known)}{nearest(equal, known)}"
        )
    word = equal or "rounds"
    each = 1 if word == "rounds" else _per_round(reference, word)
    return Terms(word, reference.rounds * each, reference.rounds, given)


def settle(configs: Sequence[RunConfig], terms: Terms) -> list[RunConfig]:
    """Return one strategy's configurations, which differ in the seed alone, on the terms.

    Raises:
        ConfigurationError: If not one round fits into the budget, or cannot be evaluated as asked.
    """
    rounds = affordable_rounds(configs[0], terms)
    if rounds is None:
        spent = _per_round(configs[0], terms.equal)
        raise ConfigurationError(
            f"equal = {terms.equal!r}: one round of {configs[0].strategy!r} takes {spent:,} "
            f"{_unit(terms.equal)}, and the budget, which is what {REFERENCE!r} takes in all its "
            f"rounds, is {terms.budget:,}; raise --rounds"
        )
    changes: Flat = {"rounds": rounds, "evaluation.select": "last"}
    validation = configs[0].make_scenario().clients()["validation"]
    every = terms.given.get("evaluation.every", max(1, rounds // EVALUATIONS))
    wanted = terms.given.get("evaluation.select", "best" if validation and every else "last")
    if rounds and wanted != "last":
        changes |= {"evaluation.select": wanted, "evaluation.every": every}
    return [resolve(config.to_table(), changes) for config in configs]


def affordable_rounds(config: RunConfig, terms: Terms) -> int | None:
    """Return how many rounds a strategy trains; None if the budget does not allow one."""
    if not STRATEGIES[config.strategy].facts.has_rounds:
        return 0
    if terms.budget is None:
        return config.rounds
    if terms.equal == "rounds":
        return terms.budget
    return terms.budget // _per_round(config, terms.equal) or (None if terms.budget else 0)


def _per_round(config: RunConfig, equal: str) -> int:
    per_round = estimate(config).per_round
    if equal == "bytes":
        spent = per_round.payload_bytes
    elif equal == "flops":
        spent = per_round.flops
    else:
        spent = int(per_round.counters.get(equal, Units()).total)
    if not spent:
        raise ConfigurationError(
            f"equal = {equal!r}: a round of {config.strategy!r} on {config.scenario!r} takes no "
            f"{_unit(equal)} that could be counted, so that no number of rounds takes as many as "
            "another strategy's; use --equal rounds"
        )
    return spent


def _unit(equal: str) -> str:
    return "operations" if equal == "flops" else equal
