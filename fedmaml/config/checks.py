"""Checks of settings that are valid alone, but may not fit together."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from fedmaml.config.declared import declared_by_scenario, declared_by_strategy, field_types
from fedmaml.config.flat import Flat, flatten_table
from fedmaml.config.settings import RunConfig
from fedmaml.core.compression import Method
from fedmaml.core.errors import ConfigurationError

_IDLE = {
    "compression.fraction": ("compression.method", ("top-k",)),
    "compression.error_feedback": (
        "compression.method", tuple(name for name in get_args(Method) if name != "none"),
    ),
    "aggregation.trim": ("aggregation.rule", ("trimmed-mean",)),
    "aggregation.malicious": ("aggregation.rule", ("krum", "multi-krum", "bulyan")),
    "aggregation.selected": ("aggregation.rule", ("multi-krum",)),
}  # fmt: skip
"""Setting -> (another setting, its values with which the first has an effect).

Those of a scenario are in its `only_with`.
"""


def check_numbers(given: Flat, config: RunConfig) -> None:
    """Refuse true and false where a number is meant: they would be taken for 1 and 0.

    Args:
        given: The settings that the user gave.
        config: The resolved configuration.

    Raises:
        ConfigurationError: Names the setting.
    """
    resolved = flatten_table(config.to_table())
    for key, value in given.items():
        if _booleans(value) and key in resolved and not _booleans(resolved[key]):
            raise ConfigurationError(
                f"{key} = {value!r}: input should be a number, not true or false"
            )


def _booleans(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_booleans, value)))


def check_idle(given: Flat, config: RunConfig) -> None:
    """Refuse settings that have no effect.

    An idle setting is accepted if it has its default and the setting that makes it idle is given,
    too, as in the configuration that a run writes.

    Args:
        given: The settings that the user gave.
        config: The resolved configuration.

    Raises:
        ConfigurationError: Names the setting, and the one that makes it idle.
    """
    scenario = declared_by_scenario(config.scenario)
    if given.get("data_dir") and "data_dir" not in field_types(scenario.settings):
        raise ConfigurationError(
            f"data_dir = {given['data_dir']!r} has no effect: scenario {config.scenario!r} reads "
            "no data set from a folder; leave it out"
        )
    resolved = flatten_table(config.to_table())
    idle = _IDLE | {
        f"task.{name}": (f"task.{other}", values)
        for name, (other, values) in scenario.only_with.items()
    }
    for key, (switch, active) in idle.items():
        if key not in given or resolved[switch] in active:
            continue
        section, _, name = key.partition(".")
        cls: Any = scenario.settings if section == "task" else field_types(RunConfig)[section]
        (default,) = (item.default for item in dataclasses.fields(cls) if item.name == name)
        if switch not in given or given[key] != default:
            raise ConfigurationError(
                f"{key} = {given[key]!r} has no effect with {switch} = {resolved[switch]!r}: set "
                f"{switch} to {' or '.join(map(repr, active))}, or leave {key} out"
            )


def without_idle_steps(merged: Flat, given: Flat) -> Flat:
    """Leave out numbers of gradient steps where epochs say how many there are.

    Where a recipe has the epochs and the user gave steps, the epochs are left out.

    Raises:
        ConfigurationError: If the user gave both.
    """
    left_out = set()
    for steps, epochs in idle_steps(merged).items():
        section = steps.rpartition(".")[0]
        if steps in given and epochs not in given:
            left_out.add(epochs)
            continue
        left_out.add(steps)
        if given.get(steps) not in (None, _default_steps(given["strategy"], section)):
            raise ConfigurationError(
                f"{steps} = {merged.get(steps)!r} has no effect with {epochs} = "
                f"{merged[epochs]!r}, which says how many steps there are: leave one of them out, "
                f"or set {epochs} = 0"
            )
    return {key: value for key, value in merged.items() if key not in left_out}


def idle_steps(options: Flat) -> dict[str, str]:
    """Return the numbers of gradient steps that have no effect, and the epochs that replace them.

    Args:
        options: Settings by dotted key.
    """
    return {
        f"{key.removesuffix('epochs')}steps": key
        for key, value in options.items() if value and key.rpartition(".")[2] == "epochs"
    }  # fmt: skip


def _default_steps(strategy: str, section: str) -> Any:
    """Return the number of steps of a setting that is left out; None if there is no such one."""
    part = field_types(declared_by_strategy(strategy).settings).get(section)
    fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    return next((item.default for item in fields if item.name == "steps"), None)


def check_together(config: RunConfig) -> None:
    """Refuse settings that do not go together.

    Raises:
        ConfigurationError: Names the setting to change, and what is allowed.
    """
    from fedmaml.simulations.returned import clients_of

    clients = clients_of(config.make_scenario())
    _check_evaluation(config, clients)
    training = len(clients["train"])
    if config.rounds and not training:
        raise ConfigurationError(
            f"scenario {config.scenario!r} has no training clients: clients()['train'] is empty; "
            "with rounds = 0 nothing is trained"
        )
    if config.clients > training:
        raise ConfigurationError(
            f"clients = {config.clients}, but scenario {config.scenario!r} has {training} training "
            f"clients; allowed: 0 (all) to {training}"
        )
    if config.nodes > training and config.backend != "in-process":
        raise ConfigurationError(
            f"nodes = {config.nodes}, but scenario {config.scenario!r} has {training} training "
            f"clients, and a node without clients does nothing; allowed: 1 to {training}"
        )
    rule, cohort = config.aggregation.rule, config.clients or training
    if config.quorum > cohort:
        raise ConfigurationError(
            f"quorum = {config.quorum}, but a round has {cohort} clients; allowed: 0 to {cohort}"
        )
    least = fewest_updates(rule, config.aggregation.malicious)
    if cohort < least:
        raise ConfigurationError(
            f"aggregation.malicious = {config.aggregation.malicious}: rule {rule!r} needs at least "
            f"{least} clients a round to withstand that many, there are {cohort}; lower "
            "aggregation.malicious or raise clients"
        )


def fewest_updates(rule: str, malicious: int) -> int:
    """Return how many updates a robust rule needs to withstand that many bad ones.

    Krum: n >= 2 f + 3 (Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, Proposition 4.2);
    Bulyan: n >= 4 f + 3 (El Mhamdi, Guerraoui, Rouault, ICML 2018, Section 4).
    """
    if rule in ("krum", "multi-krum"):
        return 2 * malicious + 3
    return 4 * malicious + 3 if rule == "bulyan" else 1


def _check_evaluation(config: RunConfig, clients: Mapping[Any, range]) -> None:
    evaluation = config.evaluation
    if evaluation.split == "test" and not clients["test"]:
        raise ConfigurationError(
            f"scenario {config.scenario!r} has no test clients, so there is nothing to evaluate: "
            "clients()['test'] is empty; evaluation.split=validation evaluates the others"
        )
    if evaluation.split == "validation" and not clients["validation"]:
        raise ConfigurationError(
            f"evaluation.split = 'validation': scenario {config.scenario!r} has no validation "
            "clients; allowed: test"
        )
    if evaluation.select == "last":
        return
    chosen = "evaluation.select = 'best'"
    if not clients["validation"]:
        raise ConfigurationError(
            f"{chosen} chooses the round on validation clients, and scenario {config.scenario!r} "
            "has none; set evaluation.select=last"
        )
    if not evaluation.every:
        raise ConfigurationError(
            f"{chosen} needs evaluations to choose from, and evaluation.every = 0 has none; set "
            f"evaluation.every to 1 or more, e.g. {max(1, config.rounds // 20)}"
        )
    if not config.rounds:
        raise ConfigurationError(
            f"{chosen} needs rounds to choose from, and rounds = 0; set evaluation.select=last"
        )
    train, test = clients["train"], clients["test"]
    if range(max(train.start, test.start), min(train.stop, test.stop)) and _keeps_memory(config):
        raise ConfigurationError(
            f"{chosen}: strategy {config.strategy!r} leaves a memory at every client, and in "
            f"scenario {config.scenario!r} test clients train, so that at the end they hold that "
            "of the last round, which does not go with an earlier round's meta-parameters; set "
            "evaluation.select=last"
        )


def _keeps_memory(config: RunConfig) -> bool:
    from fedmaml.core import seeding

    start = config.make_strategy().build(config.make_problem(), seeding.generator(0, "init"))
    return bool(start.memory)
