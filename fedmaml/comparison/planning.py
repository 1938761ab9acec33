"""What a comparison runs: one configuration per strategy and seed, checked before anything runs."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedmaml.comparison.budget import Budget, make_budget, within_budget
from fedmaml.comparison.conclusions import ALWAYS
from fedmaml.comparison.findings import Tuned
from fedmaml.comparison.given import given_to, refuse_rounds, refuse_wrong, shared
from fedmaml.comparison.tuning import SEED
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.config import Flat, RunConfig, known_keys, nearest, resolve
from fedmaml.config.keys import known_name
from fedmaml.core.errors import ConfigurationError
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

_OWN_KEYS = {
    "scenario": "as the argument",
    "strategy": "with --strategies",
    "seed": "with --seeds",
    "task.seed": "with --seeds",
    "evaluation.split": "as 'test', and as 'validation' while it tunes",
}


@dataclass(frozen=True)
class Plan:
    """What a comparison runs.

    Attributes:
        runs: Strategy -> its configuration for every seed.
        budget: What every strategy may spend.
    """

    runs: Mapping[str, Sequence[RunConfig]]
    budget: Budget


def plan(
    scenario: str,
    strategies: Sequence[str],
    seeds: int,
    layers: Sequence[Flat],
    rounds: int | None = None,
    equal: str | None = None,
) -> Plan:
    """Return what to run: every strategy with its recipe and the shared settings that it knows.

    Args:
        scenario: Name in the catalogue.
        strategies: Names in the catalogue; `ALWAYS` are added.
        seeds: Number of seeds; they are 0, 1, ...
        layers: Settings, later ones winning, for all strategies or for one, see `given`.
        rounds: Rounds of training for all but "local", which has none; None: as in the recipes.
        equal: What all strategies get alike, see `budget`.

    Raises:
        ConfigurationError: Names what is wrong, what is allowed and the nearest right word.
    """
    if not 1 <= seeds <= SEED:
        raise ConfigurationError(
            f"seeds = {seeds}: allowed: 1 or more (at most {SEED:,}); 5 are enough for most "
            "scenarios"
        )
    names = list(dict.fromkeys([*ALWAYS, *strategies]))
    given: Flat = {key: value for layer in layers for key, value in layer.items()}
    _check_keys(scenario, names, given)
    budget = make_budget(scenario, given, rounds, equal)
    refuse_rounds(given, budget.equal)
    decided = ("evaluation.select", *(("rounds",) if budget.amount is not None else ()))
    planned: dict[str, list[RunConfig]] = {}
    for name in names:
        own = given_to(given, scenario, name)
        own = {key: value for key, value in own.items() if key not in decided}
        main = {"scenario": scenario, "strategy": name}
        every_seed = [resolve(own, main, {"seed": seed}) for seed in range(seeds)]
        planned[name] = within_budget(every_seed, budget)
    of_reference = planned[REFERENCE][0].task
    for name in names:
        differ = [
            f"task.{key} = {value!r} and {of_reference[key]!r}"
            for key, value in planned[name][0].task.items() if value != of_reference[key]
        ]  # fmt: skip
        if differ:
            raise ConfigurationError(
                f"the recipes of {name!r} and {REFERENCE!r} on {scenario!r} set different tasks, "
                f"so that they cannot be compared ({', '.join(differ)}); give one value with --set"
            )
    return Plan(planned, budget)


def _check_keys(scenario: str, names: Sequence[str], given: Flat) -> None:
    """Refuse settings that no strategy knows, or not the one that they are for."""
    for key, how in _OWN_KEYS.items():
        if key in given:
            raise ConfigurationError(
                f"{key} = {given[key]!r}: a comparison takes the {key} {how}; remove the setting"
            )
    known_name(scenario, SCENARIOS, "scenario")
    for name in names:
        known_name(name, STRATEGIES, "strategy")
    refuse_wrong(given, scenario, names)
    everything = list(dict.fromkeys(key for name in names for key in known_keys(scenario, name)))
    for key in shared(given):
        if key not in everything:
            raise ConfigurationError(
                f"unknown key {key!r}: neither scenario {scenario!r} nor any of "
                f"{', '.join(names)} has it{nearest(key, everything)}; "
                f"known: {', '.join(key for key in everything if key not in _OWN_KEYS)}"
            )


def tuned(planned: Plan, found: Mapping[str, Tuned]) -> Plan:
    """Return the plan with the settings that tuning found, and the same budget."""
    runs = {}
    for name, configs in planned.runs.items():
        chosen = {key: setting.chosen for key, setting in found[name].settings.items()}
        changed = [resolve(config.to_table(), chosen) for config in configs]
        runs[name] = within_budget(changed, planned.budget)
    return Plan(runs, planned.budget)


def command(
    scenario: str,
    strategies: Sequence[str],
    seeds: int,
    layers: Sequence[Flat],
    rounds: int | None,
    equal: str | None,
    trials: int | None,
) -> str:
    """Return the command that makes a comparison, without its output folder."""
    given = {key: value for layer in layers for key, value in layer.items() if key != "data_dir"}
    options = {
        "strategies": ",".join(strategies), "seeds": seeds, "rounds": rounds, "equal": equal,
        "tune": trials,
    }  # fmt: skip
    words = ["fedmaml", "compare", scenario]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    for key, value in given.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)
