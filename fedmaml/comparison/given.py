"""Settings of a comparison: for all strategies that know the key, or for one of them by name.

inner.lr=.2         every strategy that has inner.lr
anil:inner.lr=.2    anil alone, whatever is set for all
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fedmaml.config import Flat, known_keys, nearest
from fedmaml.core.errors import ConfigurationError
from fedmaml.strategies import CATALOGUE as STRATEGIES

_SAME_FOR_ALL = (
    "scenario",
    "strategy",
    "seed",
    "data_dir",
    "labels",
    "dtype",
    "task",
    "evaluation",
)
"""Keys, or their first words, in which compared runs must not differ."""


def shared(given: Mapping[str, Any]) -> Flat:
    """Return the settings for all strategies that know the key."""
    return {key: value for key, value in given.items() if ":" not in key}


def own(given: Mapping[str, Any], strategy: str) -> Flat:
    """Return the settings for one strategy only, by key without its name."""
    parts = ((key.partition(":"), value) for key, value in given.items())
    return {key: value for (name, colon, key), value in parts if colon and name == strategy}


def given_to(given: Mapping[str, Any], scenario: str, strategy: str) -> Flat:
    """Return the given settings of a strategy: those for all, overridden by its own."""
    known = known_keys(scenario, strategy)
    return {key: value for key, value in shared(given).items() if key in known} | own(
        given, strategy
    )


def refuse_rounds(given: Mapping[str, Any], equal: str) -> None:
    """Refuse rounds of one strategy where the budget determines them, or where it has none.

    Raises:
        ConfigurationError: Names the setting and what to do instead.
    """
    for setting, value in given.items():
        name, colon, key = setting.partition(":")
        if not colon or key != "rounds":
            continue
        if not STRATEGIES[name].facts.has_rounds:
            raise ConfigurationError(
                f"{setting} = {value!r} has no effect: {name} has no rounds; remove the setting"
            )
        if equal != "recipes":
            raise ConfigurationError(
                f"{setting} = {value!r}: with equal = {equal!r} the budget determines the rounds; "
                "remove the setting, or --rounds and --equal"
            )


def refuse_wrong(given: Mapping[str, Any], scenario: str, strategies: Sequence[str]) -> None:
    """Refuse settings of one strategy that it does not know, or that all must share.

    Raises:
        ConfigurationError: Names the setting, what is allowed and the nearest right word.
    """
    for setting, value in given.items():
        name, colon, key = setting.partition(":")
        if not colon:
            continue
        shown = f"{setting} = {value!r}"
        if name not in strategies:
            if name in STRATEGIES:
                raise ConfigurationError(
                    f"{shown}: {name} is not compared; add it with --strategies, or remove the "
                    "setting"
                )
            raise ConfigurationError(
                f"{shown}: there is no strategy {name!r}{nearest(name, strategies)}; compared: "
                f"{', '.join(strategies)}"
            )
        if key.partition(".")[0] in _SAME_FOR_ALL:
            raise ConfigurationError(
                f"{shown}: {key} must be the same for all strategies, or they cannot be compared; "
                f"set it for all, {key}={value}, or leave it out"
            )
        allowed = [
            one for one in known_keys(scenario, name)
            if one.partition(".")[0] not in _SAME_FOR_ALL
        ]  # fmt: skip
        if key not in allowed:
            raise ConfigurationError(
                f"{shown}: {name} has no setting {key!r}{nearest(key, allowed)}; it has "
                f"{', '.join(allowed)}"
            )
