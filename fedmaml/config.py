"""What a run is: settings by dotted key, checked before anything starts.

Settings come from four places, later ones winning: the defaults of strategy and scenario, the
scenario's recipe for the strategy, a TOML file, the command line. The keys are

    scenario, strategy, rounds, seed, ...      fields of `RunConfig`
    evaluation.*, aggregation.*                of `Evaluation` and `Aggregation`
    compression.*                              of `core.compression.Compression`
    task.*                                     fields of the scenario, e.g. task.cross
    inner.*, outer.*, mu, ...                  fields of the strategy
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from pydantic import TypeAdapter, ValidationError

from fedmaml.core import seeding
from fedmaml.core.compression import Compression
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import Problem
from fedmaml.core.settings import settings
from fedmaml.simulations.scenario import Scenario, Split
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES
from fedmaml.strategies import MetaStrategy

Flat = dict[str, Any]
"""Dotted key -> scalar or list."""

Backend = Literal["in-process", "flower-simulation", "flower-deployment"]
EngineName = Literal["auto", "fused", "factored", "pooled", "compiled", "vmap", "loop"]


@settings
class Evaluation:
    """When and how adaptation is judged.

    Attributes:
        every: Judge the validation clients every so many rounds; 0: never.
        choose: Which round's meta-parameters are judged at the end and kept: the "last" one's, or
            those of the round that was "best" on the validation clients by the headline metric
            after adaptation, the earliest of equals. "best" judges them after the last round, too.
        split: Whose clients are judged at the end: "test", or "validation", which leaves the test
            clients unseen while settings are tuned.
        steps: Further numbers of adaptation steps at which the test clients are judged.
        shots: Smaller supports on which the test clients are judged: so many examples of each
            class, where the problem has classes; else so many in all.
        largest: At most so many validation clients, the first ones.
    """

    every: Annotated[int, Ge(0)] = 0
    choose: Literal["last", "best"] = "last"
    split: Literal["test", "validation"] = "test"
    steps: tuple[Annotated[int, Ge(0), Le(10_000)], ...] = ()
    shots: tuple[Annotated[int, Gt(0), Le(10_000)], ...] = ()
    largest: Annotated[int, Gt(0)] = 100


@settings
class Aggregation:
    """How updates become one.

    Attributes:
        rule: "mean" (weighted), or one of Flower's robust rules.
        malicious: Bad clients that "krum", "multi-krum" and "bulyan" must withstand.
        trim: Fraction that "trimmed-mean" cuts off at either end.
        selected: Updates that "multi-krum" averages.
    """

    rule: Literal["mean", "median", "trimmed-mean", "krum", "multi-krum", "bulyan"] = "mean"
    malicious: Annotated[int, Ge(0)] = 1
    trim: Annotated[float, Ge(0), Le(0.49)] = 0.2
    selected: Annotated[int, Gt(0)] = 5


@settings
class RunConfig:
    """Everything needed to repeat a run.

    Attributes:
        scenario: Name in the catalogue.
        strategy: Name in the catalogue.
        rounds: Rounds of training, >= 0.
        seed: Determines initial parameters, cohorts, data and splits.
        backend: How messages travel.
        nodes: Flower nodes that share the clients.
        clients: Clients per round; 0: all.
        engine: What computes the updates of many clients; "auto": what pays.
        client_batch: Clients per computation; 0: what the engine does best; 1: one by one.
        workers: Processes that share the clients of each node; the result does not depend on it.
        device: Where clients compute.
        dtype: Type of parameters and data.
        timeout: Seconds to wait for the replies of a round.
        data_dir: Folder that holds one folder per data set.
        evaluation: When adaptation is judged.
        aggregation: How updates become one.
        compression: How clients shorten what they send.
        task: Settings of the scenario.
        options: Settings of the strategy.
    """

    scenario: str
    strategy: str
    rounds: Annotated[int, Ge(0), Le(1_000_000_000)] = 100
    seed: Annotated[int, Ge(0)] = 0
    backend: Backend = "in-process"
    nodes: Annotated[int, Gt(0)] = 1
    clients: Annotated[int, Ge(0)] = 0
    engine: EngineName = "auto"
    client_batch: Annotated[int, Ge(0)] = 0
    workers: Annotated[int, Ge(1), Le(256)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    timeout: Annotated[float, Gt(0)] = 3600.0
    data_dir: str = ""
    evaluation: Evaluation = field(default_factory=Evaluation)
    aggregation: Aggregation = field(default_factory=Aggregation)
    compression: Compression = field(default_factory=Compression)
    task: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def make_scenario(self) -> Scenario:
        """Return the scenario that the settings describe."""
        fields = {"seed": self.seed} | self.task
        if self.data_dir and "data_dir" in _fields(SCENARIOS[self.scenario]):
            fields = {"data_dir": self.data_dir} | fields
        return SCENARIOS[self.scenario](**fields)

    def make_strategy(self) -> MetaStrategy:
        """Return the strategy that the settings describe."""
        options = nest(_with_horizon(flatten_table(self.options), self.rounds))
        strategy: MetaStrategy = TypeAdapter(STRATEGIES[self.strategy]).validate_python(options)
        return strategy

    def make_problem(self) -> Problem:
        """Return the scenario's problem in this run's dtype."""
        problem = self.make_scenario().problem()
        return dataclasses.replace(problem, dtype=getattr(torch, self.dtype))

    def to_table(self) -> dict[str, Any]:
        """Return nested plain values, as in a TOML file; `resolve` of them gives this config."""
        table = dataclasses.asdict(self)
        for name in ("steps", "shots"):
            table["evaluation"][name] = list(getattr(self.evaluation, name))
        options: dict[str, Any] = table.pop("options")
        return table | options


_TABLES: dict[str, type] = {
    "evaluation": Evaluation,
    "aggregation": Aggregation,
    "compression": Compression,
}
_RUN_KEYS = tuple(
    item.name for item in dataclasses.fields(RunConfig)
    if item.name not in (*_TABLES, "task", "options")
)  # fmt: skip


def resolve(*layers: Mapping[str, Any]) -> RunConfig:
    """Put layers of settings together, later ones winning, and check every one.

    Args:
        *layers: Nested or dotted settings; one of them names the scenario. The strategy is "maml"
            unless one says otherwise.

    Raises:
        ConfigurationError: Names the key, the value, what is allowed and the nearest right key.
    """
    given: Flat = {"strategy": "maml"}
    for layer in layers:
        given |= flatten_table(layer)
    scenario = _known(given.get("scenario"), SCENARIOS, "scenario")
    strategy = _known(given["strategy"], STRATEGIES, "strategy")
    allowed = known_keys(scenario, strategy)
    for key in given:
        if key not in allowed:
            raise ConfigurationError(_unknown_key(key, allowed, scenario, strategy))
    recipes = SCENARIOS[scenario].recipes
    merged: Flat = {
        key: value
        for key, value in {**recipes.get("*", {}), **recipes.get(strategy, {})}.items()
        if key in allowed  # a recipe for all strategies may name keys that one of them lacks
    } | given
    table = nest(merged)
    top = {key: table.pop(key) for key in (*_RUN_KEYS, *_TABLES) if key in table}
    task = table.pop("task", {})
    run: RunConfig = _checked(RunConfig, top, "")
    task |= {
        name: value
        for name, value in dataclasses.asdict(_checked(SCENARIOS[scenario], task, "task.")).items()
        if name not in ("seed", "data_dir")  # the run's own, unless they were given
    }
    complete = nest(_with_horizon(flatten_table(table), run.rounds))
    options = dataclasses.asdict(_checked(STRATEGIES[strategy], complete, ""))
    if "outer" in options:  # a horizon that follows the rounds is not written down
        options["outer"]["horizon"] = table.get("outer", {}).get("horizon", 0)
    config = dataclasses.replace(run, task=task, options=options)
    _check_idle(given, config)
    _check_together(config)
    return config


_IDLE = (
    ("compression.fraction", "compression.method", "none"),
    ("compression.error_feedback", "compression.method", "none"),
    ("task.held_out", "task.protocol", "within"),
)
"""(setting, another one, the value of that with which the first says nothing)."""


def _check_idle(given: Flat, config: RunConfig) -> None:
    """Refuse settings that have no effect, so that nobody believes they had one.

    Where the other one is given, too, and the idle one is as by default, as in the configuration
    that a run has written, nobody is deceived.
    """
    resolved = flatten_table(config.to_table())
    for key, switch, idle in _IDLE:
        if key not in given or resolved.get(switch) != idle:
            continue
        section, _, name = key.partition(".")
        cls = SCENARIOS[config.scenario] if section == "task" else _TABLES[section]
        (default,) = (item.default for item in dataclasses.fields(cls) if item.name == name)
        if switch not in given or given[key] != default:
            raise ConfigurationError(
                f"{key} = {given[key]!r} has no effect with {switch} = {idle!r}: set {switch}, "
                f"too, or leave {key} out"
            )


def _with_horizon(options: Flat, rounds: int) -> Flat:
    """Let the outer rate fall over the run's rounds, unless a horizon is given."""
    falls = options.get("outer.schedule", "constant") != "constant"
    if falls and not options.get("outer.horizon"):
        return options | {"outer.horizon": max(rounds, 1)}
    return options


def _check_together(config: RunConfig) -> None:
    clients = config.make_scenario().clients()
    _check_evaluation(config, clients)
    training = len(clients["train"])
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
    least = {
        "krum": 2 * config.aggregation.malicious + 3,
        "multi-krum": 2 * config.aggregation.malicious + 3,
        "bulyan": 4 * config.aggregation.malicious + 3,
    }.get(rule, 1)
    if cohort < least:
        raise ConfigurationError(
            f"aggregation.malicious = {config.aggregation.malicious}: rule {rule!r} needs at least "
            f"{least} clients a round to withstand that many, there are {cohort}; lower "
            "aggregation.malicious or raise clients"
        )


def _check_evaluation(config: RunConfig, clients: Mapping[Split, range]) -> None:
    evaluation = config.evaluation
    if evaluation.split == "validation" and not clients["validation"]:
        raise ConfigurationError(
            f"evaluation.split = 'validation': scenario {config.scenario!r} has no validation "
            "clients; allowed: test"
        )
    if evaluation.choose == "last":
        return
    chosen = "evaluation.choose = 'best'"
    if not clients["validation"]:
        raise ConfigurationError(
            f"{chosen} chooses the round on validation clients, and scenario {config.scenario!r} "
            "has none; set evaluation.choose=last"
        )
    if not evaluation.every:
        raise ConfigurationError(
            f"{chosen} needs evaluations to choose from, and evaluation.every = 0 has none; set "
            f"evaluation.every to 1 or more, e.g. {max(1, config.rounds // 20)}"
        )
    if not config.rounds:
        raise ConfigurationError(
            f"{chosen} needs rounds to choose from, and rounds = 0; set evaluation.choose=last"
        )
    train, test = clients["train"], clients["test"]
    if range(max(train.start, test.start), min(train.stop, test.stop)) and _keeps_memory(config):
        raise ConfigurationError(
            f"{chosen}: strategy {config.strategy!r} leaves a memory at every client, and in "
            f"scenario {config.scenario!r} test clients train, so that at the end they hold that "
            "of the last round, which does not go with an earlier round's meta-parameters; set "
            "evaluation.choose=last"
        )


def _keeps_memory(config: RunConfig) -> bool:
    start = config.make_strategy().build(config.make_problem(), seeding.generator(0, "init"))
    return bool(start.memory)


def load_toml(path: Path) -> Flat:
    """Read a configuration file.

    Raises:
        ConfigurationError: If it is missing or is not TOML.
    """
    try:
        return flatten_table(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigurationError(f"cannot read configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


def parse_assignment(text: str) -> Flat:
    """Read ``key=value``; values are TOML, and words that are not TOML are strings.

    Raises:
        ConfigurationError: If there is no "=".
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(
            f"cannot read setting {text!r}: write key=value, e.g. --set inner.lr=0.01"
        )
    value = {"True": "true", "False": "false"}.get(value.strip(), value)
    try:
        return {key.strip(): tomllib.loads(f"value = {value.strip()}")["value"]}
    except tomllib.TOMLDecodeError:
        return {key.strip(): value.strip()}


def flatten_table(table: Mapping[str, Any], prefix: str = "") -> Flat:
    """Return dotted keys of a nested table."""
    flat: Flat = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten_table(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nest(flat: Flat) -> dict[str, Any]:
    """Undo `flatten_table`."""
    table: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        place = table
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return table


def known_keys(scenario: str, strategy: str) -> list[str]:
    """Return every key that a run of this scenario and strategy understands."""
    return [
        *_RUN_KEYS,
        *(key for name, cls in _TABLES.items() for key in _keys(cls, f"{name}.")),
        *_keys(SCENARIOS[scenario], "task."),
        *_keys(STRATEGIES[strategy], ""),
    ]


def _keys(cls: type, prefix: str) -> list[str]:
    keys = []
    for name, kind in _fields(cls).items():
        nested = dataclasses.is_dataclass(kind)
        keys += _keys(kind, f"{prefix}{name}.") if nested else [prefix + name]
    return keys


def _fields(cls: type) -> dict[str, Any]:
    return {item.name: item.type for item in dataclasses.fields(cls)}


def _known(name: Any, catalogue: Mapping[str, Any], kind: str) -> str:
    if isinstance(name, str) and name in catalogue:
        return name
    if name is None:
        raise ConfigurationError(f"no {kind} given; known: {', '.join(catalogue)}")
    raise ConfigurationError(
        f"{kind} = {name!r}: there is no such {kind}{nearest(str(name), catalogue)}; "
        f"known: {', '.join(catalogue)} (fedmaml list)"
    )


def _unknown_key(key: str, allowed: Iterable[str], scenario: str, strategy: str) -> str:
    """Say what is wrong with a key, and whether it belongs to another strategy or scenario."""
    elsewhere = [name for name in STRATEGIES if key in _keys(STRATEGIES[name], "")]
    elsewhere += [name for name in SCENARIOS if key in _keys(SCENARIOS[name], "task.")]
    hint = f" (it belongs to {', '.join(elsewhere)})" if elsewhere else ""
    return (
        f"unknown key {key!r} for scenario {scenario!r} and strategy {strategy!r}{hint}"
        f"{nearest(key, allowed)}; known: {', '.join(allowed)}"
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that was probably meant; "" if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _checked(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    """Validate with pydantic and say what is wrong in our own words."""
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


# --- as a Flower run config -------------------------------------------------------------------

_MAIN_KEYS = ("scenario", "strategy", "rounds", "seed")
FLOWER_KEYS = (*_MAIN_KEYS, "settings", "out")
"""Keys of ``[tool.flwr.app.config]``: Flower allows only declared keys with scalar values."""


def to_run_config(config: RunConfig, out: Path) -> dict[str, str | int | float | bool]:
    """Return a Flower run config that holds all of a configuration, and where to write."""
    import tomli_w

    table = config.to_table()
    main = {key: table.pop(key) for key in _MAIN_KEYS}
    return {**main, "settings": tomli_w.dumps(table), "out": str(out)}


def from_run_config(run_config: Mapping[str, Any]) -> RunConfig:
    """Undo `to_run_config`.

    Raises:
        ConfigurationError: If a setting is wrong.
    """
    text = str(run_config.get("settings", ""))
    try:
        more = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"settings = {text!r} is not valid TOML: {error}") from error
    main = {key: run_config[key] for key in _MAIN_KEYS if key in run_config}  # fmt: skip
    return resolve(more, main)
