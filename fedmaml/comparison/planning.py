"""What a comparison runs: one configuration per strategy and seed, checked before anything runs."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedmaml.comparison.budget import Terms, agree, settle
from fedmaml.comparison.conclusions import ALWAYS
from fedmaml.comparison.findings import Tuned
from fedmaml.comparison.given import common, given_to, refuse_rounds, refuse_wrong
from fedmaml.comparison.tuning import SEED
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.config import Flat, RunConfig, known_keys, nearest, resolve
from fedmaml.core.errors import ConfigurationError

_OWN_KEYS = {
    "scenario": "as the argument",
    "strategy": "with --strategies",
    "seed": "with --seeds",
    "evaluation.split": "as 'test', and as 'validation' while it tunes",
}


@dataclass(frozen=True)
class Plan:
    """What a comparison runs.

    Attributes:
        runs: Strategy -> its configuration for every seed.
        terms: What holds for all of them.
    """

    runs: Mapping[str, Sequence[RunConfig]]
    terms: Terms


def plan(
    scenario: str,
    strategies: Sequence[str],
    seeds: int,
    layers: Sequence[Flat],
    rounds: int | None = None,
    equal: str | None = None,
) -> Plan:
    """Return what to run: every strategy with its recipe and the common settings that it knows.

    Args:
        scenario: Name in the catalogue.
        strategies: Names in the catalogue; `ALWAYS` are added.
        seeds: How many; they are 0, 1, ...
        layers: Settings, later ones winning, for all who know the key or for one, see `given`.
        rounds: Rounds of training for all but "local", which has none; None: as in the recipes.
        equal: What all strategies get the same amount of, see `terms`.

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
    terms = agree(scenario, given, rounds, equal)
    refuse_rounds(given, terms.equal)
    unsettled = ("evaluation.select", *(("rounds",) if terms.budget is not None else ()))
    planned: dict[str, list[RunConfig]] = {}
    for name in names:
        own = given_to(given, scenario, name)
        own = {key: value for key, value in own.items() if key not in unsettled}
        main = {"scenario": scenario, "strategy": name}
        every_seed = [resolve(own, main, {"seed": seed}) for seed in range(seeds)]
        planned[name] = settle(every_seed, terms)
    for name in names:
        if planned[name][0].task != planned[REFERENCE][0].task:
            raise ConfigurationError(
                f"the recipes of {name!r} and {REFERENCE!r} on {scenario!r} set different tasks, "
                "so that they cannot be compared; set the task.* keys that differ with --set"
            )
    return Plan(planned, terms)


def _check_keys(scenario: str, names: Sequence[str], given: Flat) -> None:
    """Refuse settings that no strategy knows, or not the one that they are for."""
    for key, how in _OWN_KEYS.items():
        if key in given:
            raise ConfigurationError(
                f"{key} = {given[key]!r}: a comparison takes the {key} {how}; remove the setting"
            )
    for name in names:
        resolve({"scenario": scenario, "strategy": name})  # a wrong name is told as such
    refuse_wrong(given, scenario, names)
    everything = list(dict.fromkeys(key for name in names for key in known_keys(scenario, name)))
    for key in common(given):
        if key not in everything:
            raise ConfigurationError(
                f"unknown key {key!r}: neither scenario {scenario!r} nor any of "
                f"{', '.join(names)} has it{nearest(key, everything)}; "
                f"known: {', '.join(key for key in everything if key not in _OWN_KEYS)}"
            )


def tuned(planned: Plan, found: Mapping[str, Tuned]) -> Plan:
    """Return the plan with the settings that were found, on the same terms."""
    runs = {}
    for name, configs in planned.runs.items():
        chosen = {key: setting.chosen for key, setting in found[name].settings.items()}
        changed = [resolve(config.to_table(), chosen) for config in configs]
        runs[name] = settle(changed, planned.terms)
    return Plan(runs, planned.terms)


def command(
    scenario: str,
    strategies: Sequence[str],
    seeds: int,
    layers: Sequence[Flat],
    rounds: int | None,
    equal: str | None,
    trials: int | None,
) -> str:
    """Return the command that makes a comparison, without where it is written to."""
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
