"""A run as settings: frozen dataclasses that are checked field by field."""

import dataclasses
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, TypeAdapter

from fedmaml.config.declared import field_types
from fedmaml.config.flat import Flat, flatten_table, nest
from fedmaml.core.compression import Compression
from fedmaml.core.engines import ABOUT as ENGINES
from fedmaml.core.settings import settings
from fedmaml.simulations.backends import BACKENDS
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

if TYPE_CHECKING:
    from fedmaml.core.learner import Problem
    from fedmaml.simulations.scenario import Scenario
    from fedmaml.strategies.base import MetaStrategy

    BackendName = str
    EngineName = str
else:  # the names stand where back ends and engines do
    BackendName = Literal[tuple(BACKENDS)]
    EngineName = Literal["auto", *ENGINES]

_TRUE = BeforeValidator(lambda value: "true" if value is True else value)
"""``labels = true`` and --set labels=true are TOML's boolean."""

MAX_INTEGER = 2**63 - 1
"""The largest that TOML and a Flower run config hold."""


@settings
class Evaluation:
    """When and how adaptation is evaluated.

    Attributes:
        every: Evaluate the validation clients every ``every`` rounds; 0: never.
        select: Model selection: the meta-parameters evaluated at the end and kept are those of the
            "last" round, or of the round that was "best" on the validation clients by the headline
            metric after adaptation, the earliest of equals. "best" evaluates them after the last
            round, too.
        split: Which clients are evaluated at the end: "test", or "validation", which leaves the
            test clients unseen while settings are tuned.
        steps: Further numbers of adaptation steps at which the test clients are evaluated.
        shots: Sizes of smaller supports on which the test clients are evaluated: examples of each
            class, where the problem has classes; else examples in all.
        largest: Most validation clients to evaluate; the first ones are taken.
    """

    every: Annotated[int, Ge(0)] = 0
    select: Literal["last", "best"] = "last"
    split: Literal["test", "validation"] = "test"
    steps: tuple[Annotated[int, Ge(0), Le(10_000)], ...] = ()
    shots: tuple[Annotated[int, Gt(0), Le(10_000)], ...] = ()
    largest: Annotated[int, Gt(0)] = 100


@settings
class Aggregation:
    """How updates are aggregated.

    Attributes:
        rule: "mean" (weighted), or one of Flower's robust rules.
        malicious: Bad clients that "krum", "multi-krum" and "bulyan" must withstand.
        trim: Fraction that "trimmed-mean" cuts off at either end.
        selected: Updates that "multi-krum" averages.
        largest_norm: A site whose update has a norm above this many times the round's median is
            left out of the round; 0: none is. A round of fewer than three sites has no such bound.
        largest_share: Largest share of a site in the weighted mean; more examples do not count.
    """

    rule: Literal["mean", "median", "trimmed-mean", "krum", "multi-krum", "bulyan"] = "mean"
    malicious: Annotated[int, Ge(0)] = 1
    trim: Annotated[float, Ge(0), Le(0.49)] = 0.2
    selected: Annotated[int, Gt(0)] = 5
    largest_norm: Annotated[float, Ge(0)] = 10.0
    largest_share: Annotated[float, Gt(0), Le(1)] = 1.0


@settings
class RunConfig:
    """Everything needed to repeat a run.

    Attributes:
        scenario: Name in the catalogue.
        strategy: Name in the catalogue.
        scenario_from: Place of a scenario of one's own, see `core.plugins.own_class`; "": it is in
            the catalogue.
        strategy_from: Likewise, of a strategy.
        rounds: Rounds of training, >= 0.
        seed: Determines initial parameters, cohorts, data and splits.
        backend: How messages travel.
        nodes: Flower nodes that share the clients.
        clients: Clients per round; 0: all.
        engine: Engine that computes updates; "auto": the first that supports the run and is fast.
        client_batch: Clients per computation; 0: the engine chooses; 1: one by one.
        workers: Processes that share the clients of each node; the result does not depend on it.
        device: Where clients compute.
        dtype: Type of parameters and data.
        timeout: Seconds to wait for the replies of a round; a later reply is not used.
        quorum: Least clients whose updates a round needs for a step; 0: a round without any leaves
            the model as it is.
        quorum_timeout: Seconds in which a round below the quorum is repeated; then the run stops.
        data_dir: Folder that holds one folder per data set.
        labels: "shuffled": every client's labels are in random order, so that there is nothing to
            learn; what a method then reaches is chance. "exchanged": every client's support is
            another client's, so that nobody can adapt to what is its own.
        evaluation: When adaptation is evaluated.
        aggregation: How updates are aggregated.
        compression: How clients compress their updates.
        task: Settings of the scenario.
        options: Settings of the strategy.
    """

    scenario: str
    strategy: str
    rounds: Annotated[int, Ge(0), Le(1_000_000_000)] = 100
    seed: Annotated[int, Ge(0), Le(MAX_INTEGER)] = 0
    backend: BackendName = next(iter(BACKENDS))
    nodes: Annotated[int, Gt(0)] = 1
    clients: Annotated[int, Ge(0)] = 0
    engine: EngineName = "auto"
    client_batch: Annotated[int, Ge(0)] = 0
    workers: Annotated[int, Ge(1), Le(256)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    timeout: Annotated[float, Gt(0)] = 3600.0
    quorum: Annotated[int, Ge(0)] = 0
    quorum_timeout: Annotated[float, Ge(0)] = 600.0
    data_dir: str = ""
    labels: Annotated[Literal["true", "shuffled", "exchanged"], _TRUE] = "true"
    scenario_from: str = ""
    strategy_from: str = ""
    evaluation: Evaluation = field(default_factory=Evaluation)
    aggregation: Aggregation = field(default_factory=Aggregation)
    compression: Compression = field(default_factory=Compression)
    task: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def make_scenario(self) -> "Scenario":
        """Return the scenario that the settings describe."""
        add_own(self.scenario, self.scenario_from, self.strategy, self.strategy_from)
        fields = {"seed": self.seed} | self.task
        if self.data_dir and "data_dir" in field_types(SCENARIOS[self.scenario]):
            fields = {"data_dir": self.data_dir} | fields
        scenario = SCENARIOS[self.scenario]
        if self.labels != "true":
            from fedmaml.simulations import shuffled

            scenario = shuffled.NULLS[self.labels](scenario)
        return scenario(**fields)

    def make_strategy(self) -> "MetaStrategy":
        """Return the strategy that the settings describe."""
        add_own(self.scenario, self.scenario_from, self.strategy, self.strategy_from)
        options = nest(with_horizon(flatten_table(self.options), self.rounds))
        return TypeAdapter(STRATEGIES[self.strategy]).validate_python(options)

    def make_problem(self) -> "Problem":
        """Return the scenario's problem in this run's dtype."""
        from fedmaml.simulations.returned import problem_of

        return problem_of(self.make_scenario()).in_dtype(self.dtype)

    def to_table(self) -> dict[str, Any]:
        """Return nested plain values, as in a TOML file; `resolve` of them gives this config."""
        table = dataclasses.asdict(self)
        for name in ("steps", "shots"):
            table["evaluation"][name] = list(getattr(self.evaluation, name))
        for name, usual in (("scenario_from", ""), ("strategy_from", ""), ("labels", "true")):
            if table[name] == usual:
                del table[name]
        options: dict[str, Any] = table.pop("options")
        return table | options


def add_own(scenario: str, scenario_from: str, strategy: str, strategy_from: str) -> None:
    """Put classes of one's own into the catalogues, in every process that needs them.

    Raises:
        ConfigurationError: If one cannot be imported, or its name is taken.
    """
    if scenario_from:
        SCENARIOS.add(scenario, scenario_from)
    if strategy_from:
        STRATEGIES.add(strategy, strategy_from)


def with_horizon(options: Flat, rounds: int) -> Flat:
    """Let the outer rate fall over the run's rounds, unless a horizon is given."""
    falls = options.get("outer.schedule", "constant") != "constant"
    if falls and not options.get("outer.horizon"):
        return options | {"outer.horizon": max(rounds, 1)}
    return options
