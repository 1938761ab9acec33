"""The commands that repeat the runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from fedmaml.comparison.conclusions import ALWAYS
from fedmaml.comparison.planning import command, plan
from fedmaml.config import RunConfig, flatten_table
from fedmaml.core.errors import FedmamlError
from fedmaml.report.reading import Material
from fedmaml.strategies import CATALOGUE as STRATEGIES

_NOT_SET = ("scenario", "strategy", "seed", "rounds", "data_dir")


def compare_command(material: Material) -> str:
    """Return the `fedmaml compare` command that made these runs; "" if none is known.

    If no file records it, the settings are derived (differences to the recipes, set for all or for
    one strategy), and the derived plan is compared with the configurations of all runs. A command
    that is not exact is not returned.
    """
    if material.comparison is None:
        return ""
    if material.comparison.command:
        return material.comparison.command
    tables = {name: [run.table for run in runs] for name, runs in material.runs.items()}
    if not set(ALWAYS) <= set(tables):
        return ""
    names = [name for name in tables if name not in ALWAYS]
    seeds = len(next(iter(tables.values())))
    rounds = {int(table["rounds"]) for name in tables if _trains(name) for table in tables[name]}
    try:
        recipes = plan(material.scenario, names, seeds, [], None).runs
        given = _settings_beside(recipes, tables)
        usual = {int(configs[0].rounds) for name, configs in recipes.items() if _trains(name)}
        number = rounds.pop() if len(rounds) == 1 and rounds != usual else None
        planned = plan(material.scenario, names, seeds, [given], number).runs
    except FedmamlError:
        return ""
    for name, configs in planned.items():
        wanted = [_without(table) for table in tables.get(name, [])]
        if [_without(_plain(config.to_table())) for config in configs] != wanted:
            return ""
    return command(material.scenario, names or ALWAYS, seeds, [given], number, None, None)


def _settings_beside(
    recipes: Mapping[str, Sequence[RunConfig]], tables: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return the settings in which runs differ from their recipes; for all strategies if alike."""
    found = {name: flatten_table(tables[name][0]) for name in recipes}
    given: dict[str, Any] = {}
    for name, configs in recipes.items():
        recipe = flatten_table(_plain(configs[0].to_table()))
        for key, value in found[name].items():
            if key not in _NOT_SET and recipe.get(key) != value:
                for_all = all(other.get(key, value) == value for other in found.values())
                given[key if for_all else f"{name}:{key}"] = value
    return given


def configurations(material: Material) -> dict[str, str]:
    """Return the TOML file of the first run of each line; it gives that run again."""
    return {name: tomli_w.dumps(dict(runs[0].table)) for name, runs in material.runs.items()}


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table as it would be read from TOML: tuples are lists."""
    return {
        key: _plain(value) if isinstance(value, Mapping)
        else list(value) if isinstance(value, tuple) else value
        for key, value in table.items()
    }  # fmt: skip


def _without(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "data_dir"}


def _trains(strategy: str) -> bool:
    return STRATEGIES[strategy].facts.has_rounds
