"""Layers of settings become the configuration of a run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedmaml.config.checks import check_idle, check_numbers, check_together, without_idle_steps
from fedmaml.config.declared import declared_by_scenario, declared_by_strategy
from fedmaml.config.flat import Flat, flatten_table, nest
from fedmaml.config.keys import (
    GIVEN_TO_SCENARIO,
    RUN_KEYS,
    check_scenario,
    known_keys,
    known_name,
    refuse_unknown,
)
from fedmaml.config.settings import RunConfig, add_own, with_horizon
from fedmaml.core.errors import ConfigurationError
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES


def resolve(
    *layers: Mapping[str, Any],
    say: Callable[[str], None] | None = None,
    with_data: bool = True,
) -> RunConfig:
    """Put layers of settings together, later ones winning, and check every one.

    Args:
        *layers: Nested or dotted settings; one of them names the scenario. The strategy is "maml"
            unless one says otherwise.
        say: Gets a line about the run once every single setting is right, before PyTorch is
            imported.
        with_data: Whether to check that the settings suit the scenario's data, which are read.

    Raises:
        ConfigurationError: Names the key, the value, what is allowed and the nearest right key.
    """
    given: Flat = {"strategy": "maml"}
    for layer in layers:
        given |= flatten_table(layer)
    add_own(
        str(given.get("scenario")), given.get("scenario_from", ""),
        str(given["strategy"]), given.get("strategy_from", ""),
    )  # fmt: skip
    scenario = known_name(given.get("scenario"), SCENARIOS, "scenario")
    strategy = known_name(given["strategy"], STRATEGIES, "strategy")
    if given.get("scenario_from"):
        check_scenario(scenario)
    refuse_unknown(given, scenario, strategy)
    allowed = known_keys(scenario, strategy)
    merged: Flat = {
        key: value
        for key, value in _recipe(scenario, strategy).items()
        if key in allowed  # a recipe for all strategies may name keys that one of them lacks
    } | given
    merged = without_idle_steps(merged, given)
    table = nest(merged)
    top = {key: table.pop(key) for key in RUN_KEYS if key in table}
    task = table.pop("task", {})
    run: RunConfig = _checked(RunConfig, top, "")
    complete = nest(with_horizon(flatten_table(table), run.rounds))
    # First what is known of the classes without importing them, so that a wrong value is refused
    # at once; then the classes themselves.
    _checked(declared_by_scenario(scenario).settings, task, "task.")
    _checked(declared_by_strategy(strategy).settings, complete, "")
    if say is not None:
        say(_announcement(run))
    task |= {
        name: value
        for name, value in dataclasses.asdict(_checked(SCENARIOS[scenario], task, "task.")).items()
        if name not in GIVEN_TO_SCENARIO
    }
    options = dataclasses.asdict(_checked(STRATEGIES[strategy], complete, ""))
    if "outer" in options:  # a horizon that follows the rounds is not written down
        options["outer"]["horizon"] = table.get("outer", {}).get("horizon", 0)
    config = dataclasses.replace(run, task=task, options=options)
    check_numbers(given, config)
    check_idle(given, config)
    if with_data:
        check_together(config)
    return config


def _announcement(run: RunConfig) -> str:
    rounds = "1 round" if run.rounds == 1 else f"{run.rounds} rounds"
    clients = "all clients" if run.clients == 0 else f"{run.clients} clients"
    return f"{run.scenario}: {run.strategy}, {rounds} of {clients}, {run.backend}"


def _recipe(scenario: str, strategy: str) -> Mapping[str, Any]:
    """Return the recipe of a strategy: for all strategies, for its family, and its own."""
    recipes = declared_by_scenario(scenario).recipes
    family = declared_by_strategy(strategy).family
    return {
        key: value
        for name in ("*", family, strategy)
        for key, value in recipes.get(name, {}).items()
    }


def _checked(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    """Validate with pydantic; raise our own error with key and value."""
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"] if part not in ("task", "options") or prefix]
        key = prefix + ".".join(part for part in path if not part.isdigit())
        value = first["input"]
        raise ConfigurationError(f"{key} = {value!r}: {_lower(first['msg'])}") from error


def _lower(message: str) -> str:
    return (message[:1].lower() + message[1:]).replace("a valid tuple", "a list, e.g. [1, 5]")
