"""The keys that a run understands, and the errors for others."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmaml.config.declared import declared_by_scenario, declared_by_strategy, field_types
from fedmaml.config.settings import RunConfig
from fedmaml.core.errors import ConfigurationError
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

_TABLES = ("task", "options")  # fields of `RunConfig` with settings of scenario and strategy
RUN_KEYS = tuple(name for name in field_types(RunConfig) if name not in _TABLES)
"""Keys of `RunConfig`, without the tables of scenario and strategy."""
GIVEN_TO_SCENARIO = ("seed", "data_dir")
"""Fields that a scenario gets from its run."""


def known_keys(scenario: str, strategy: str) -> list[str]:
    """Return every key that a run of this scenario and strategy understands."""
    return [
        *(key for key in _keys(RunConfig, "") if key not in _TABLES),
        *(
            key
            for key in _keys(declared_by_scenario(scenario).settings, "task.")
            if not _of_the_run(key)
        ),
        *_keys(declared_by_strategy(strategy).settings, ""),
    ]


def _keys(cls: type, prefix: str) -> list[str]:
    keys = []
    for name, kind in field_types(cls).items():
        nested = dataclasses.is_dataclass(kind)
        keys += _keys(kind, f"{prefix}{name}.") if nested else [prefix + name]
    return keys


def _of_the_run(key: str) -> bool:
    return key in [f"task.{name}" for name in GIVEN_TO_SCENARIO]


def known_name(name: Any, catalogue: Mapping[str, Any], kind: str) -> str:
    """Return a name of a catalogue; refuse any other, saying which was probably meant."""
    if isinstance(name, str) and name in catalogue:
        return name
    if name is None:
        raise ConfigurationError(f"no {kind} given; known: {', '.join(catalogue)}")
    if isinstance(name, str) and Path(name, "config.toml").is_file():
        raise ConfigurationError(
            f"{kind} = {name!r}: this is a run directory; its settings: --config "
            f"{Path(name, 'config.toml')}"
        )
    if isinstance(name, str) and name.endswith(".py"):
        raise ConfigurationError(
            f"{kind} = {name!r}: a file is named by {kind}_from = {name!r}, and its class by "
            f"{kind} = {Path(name).stem!r}"
        )
    raise ConfigurationError(
        f"{kind} = {name!r}: there is no such {kind}{nearest(str(name), catalogue)}; "
        f"known: {', '.join(catalogue)} (fedmaml list)"
    )


def refuse_unknown(keys: Iterable[str], scenario: str, strategy: str) -> None:
    """Refuse keys that a run does not understand, saying to which other one they belong."""
    allowed = known_keys(scenario, strategy)
    key = next((key for key in keys if key not in allowed), None)
    if key is None:
        return
    if _of_the_run(key):
        name = key.removeprefix("task.")
        raise ConfigurationError(
            f"{key}: a scenario takes the {name} of its run; set {name} instead"
        )
    elsewhere = [
        name for name in STRATEGIES if key in _keys(declared_by_strategy(name).settings, "")
    ] + [name for name in SCENARIOS if key in _keys(declared_by_scenario(name).settings, "task.")]
    hint = f" (it belongs to {', '.join(elsewhere)})" if elsewhere else ""
    if ":" in key:
        hint = " (NAME:KEY sets one strategy of a comparison, and this is a run of one strategy)"
    raise ConfigurationError(
        f"unknown key {key!r} for scenario {scenario!r} and strategy {strategy!r}{hint}"
        f"{nearest(key, allowed)}; known: {', '.join(allowed)}"
    )


def check_scenario(name: str) -> None:
    """Refuse a scenario that takes no seed, or whose recipes name what there is not.

    A recipe may name a strategy of one's own that is not there, unless that looks misspelled.

    Raises:
        ConfigurationError: Names the recipe and the key.
    """
    declared = declared_by_scenario(name)
    seed = field_types(declared.settings).get("seed")
    if int not in (seed, getattr(seed, "__origin__", None)):  # Annotated[int, ...], too
        found = "no field seed" if seed is None else f"a seed that is no int but {seed}"
        raise ConfigurationError(
            f"scenario {name!r} has {found}; a run determines its data by it: write seed: int = 0"
        )
    if not isinstance(declared.recipes, Mapping) or not all(
        isinstance(recipe, str) and isinstance(values, Mapping)
        for recipe, values in declared.recipes.items()
    ):
        raise ConfigurationError(
            f"recipes of scenario {name!r} must be settings by dotted key, for each strategy, e.g. "
            'recipes = {"*": {"rounds": 200}}'
        )
    families = {declared_by_strategy(strategy).family for strategy in STRATEGIES}
    for recipe, values in declared.recipes.items():
        if recipe not in ("*", *families, *STRATEGIES):
            known = families if recipe.startswith("family:") else [*STRATEGIES, *families]
            if hint := nearest(recipe.lower(), known, 0.0 if known is families else 0.75):
                raise ConfigurationError(
                    f"recipes of scenario {name!r}: there is no {recipe!r}{hint}"
                )
            continue
        of = [
            strategy for strategy in STRATEGIES
            if recipe in ("*", strategy, declared_by_strategy(strategy).family)
        ]  # fmt: skip
        allowed: set[str] = set()
        for strategy in of:  # most keys belong to every run, so the first strategy is enough
            if set(values) <= allowed:
                break
            allowed.update(known_keys(name, strategy))
        for key in values:
            if key not in allowed:
                raise ConfigurationError(
                    f"recipe {recipe!r} of scenario {name!r}: unknown key {key!r}"
                    f"{nearest(key, allowed)}"
                )


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return a hint at the known word that was probably meant; "" if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""
