"""The budget of a comparison: how long each strategy trains, and which round is evaluated.

    recipes   every strategy trains as many rounds as its recipe says
    rounds    every strategy trains the same number of rounds
    bytes     every strategy trains as many rounds as the budget of tensors sent allows
    flops     every strategy trains as many rounds as the budget of clients' operations allows
    NAME      every strategy trains as many rounds as the budget of the counter NAME allows

The budget is what fine-tuned FedAvg spends with its recipe, or in the given number of rounds. The
cost of a round of another strategy comes from `fedmaml.estimating`, which counts bytes, operations
and counters. Counters are the scenario's (`fedmaml.core.counters`); support and query are added up.
"local" has no rounds, so no budget applies to it.

Where a scenario has validation clients, they select the round that is evaluated, among about
`EVALUATIONS` rounds; otherwise it is the last round.
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
"""What can be equal for all strategies, beside the scenario's counters."""

EVALUATIONS = 20
"""About how many times a run evaluates the validation clients."""


@dataclass(frozen=True)
class Budget:
    """What every strategy may spend.

    Attributes:
        equal: What is the same for all: a word of `EQUAL`, or the name of a counter.
        amount: Rounds, bytes, operations or units of a counter of a run; None with "recipes".
        reference_rounds: Rounds in which FedAvg, with its recipe, spends the amount.
        given: Settings of the user, see `comparison.given`; neither tuned nor replaced.
    """

    equal: str
    amount: int | None
    reference_rounds: int | None
    given: Mapping[str, Any]


def make_budget(scenario: str, given: Flat, rounds: int | None, equal: str | None) -> Budget:
    """Return the budget of a comparison.

    Args:
        scenario: Name in the catalogue.
        given: Settings for all, and for one strategy alone.
        rounds: Rounds of training, FedAvg's where a budget is shared; None: as in the recipes.
        equal: A word of `EQUAL`, or the name of a counter; None: "rounds" if rounds are given,
            else "recipes".

    Raises:
        ConfigurationError: If there is no such word.
    """
    wanted = rounds if rounds is not None else given.get("rounds")
    if wanted is None and equal in (None, "recipes"):
        return Budget("recipes", None, None, given)
    if wanted is not None and equal == "recipes":
        raise ConfigurationError(
            f"equal = 'recipes' takes each recipe's rounds, and rounds = {wanted} is given, too; "
            "leave one of them out"
        )
    own = given_to(given, scenario, REFERENCE)
    own.pop("evaluation.select", None)  # it does not change the cost, and needs `within_budget`
    main: Flat = {"scenario": scenario, "strategy": REFERENCE}
    reference = resolve(own, main, {} if wanted is None else {"rounds": wanted})
    known = (*EQUAL, *(counter.name for counter in reference.make_problem().counters))
    if equal is not None and equal not in known:
        raise ConfigurationError(
            f"equal = {equal!r}: allowed: {', '.join(known)}{nearest(equal, known)}"
        )
    word = equal or "rounds"
    each = 1 if word == "rounds" else _per_round(reference, word)
    return Budget(word, reference.rounds * each, reference.rounds, given)


def within_budget(configs: Sequence[RunConfig], budget: Budget) -> list[RunConfig]:
    """Return one strategy's configurations, which differ in the seed only, with its rounds.

    Raises:
        ConfigurationError: If not one round fits into the budget, or the evaluation is impossible.
    """
    rounds = affordable_rounds(configs[0], budget)
    if rounds is None:
        spent = _per_round(configs[0], budget.equal)
        raise ConfigurationError(
            f"equal = {budget.equal!r}: one round of {configs[0].strategy!r} takes {spent:,} "
            f"{_unit(budget.equal)}, and the budget, which is what {REFERENCE!r} takes in all its "
            f"rounds, is {budget.amount:,}; raise --rounds"
        )
    changes: Flat = {"rounds": rounds, "evaluation.select": "last"}
    validation = configs[0].make_scenario().clients()["validation"]
    every = budget.given.get("evaluation.every", max(1, rounds // EVALUATIONS))
    wanted = budget.given.get("evaluation.select", "best" if validation and every else "last")
    if rounds and wanted != "last":
        changes |= {"evaluation.select": wanted, "evaluation.every": every}
    return [resolve(config.to_table(), changes) for config in configs]


def affordable_rounds(config: RunConfig, budget: Budget) -> int | None:
    """Return how many rounds a strategy trains; None if the budget does not allow one."""
    if not STRATEGIES[config.strategy].facts.has_rounds:
        return 0
    if budget.amount is None:
        return config.rounds
    if budget.equal == "rounds":
        return budget.amount
    return budget.amount // _per_round(config, budget.equal) or (None if budget.amount else 0)


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
