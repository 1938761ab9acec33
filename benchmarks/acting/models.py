"""Models of runs at work on worlds of one's choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.func import vmap

from fedmaml.client.replies import PreparedStrategy, prepare
from fedmaml.config import RunConfig, resolve
from fedmaml.core.learner import Predictor, prepared_tasks
from fedmaml.core.params import MetaParams
from fedmaml.core.tasks import Batch, Task, cast
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.scenario import Scenario, totals_of
from fedmaml.strategies.base import with_adaptation_steps

Prediction = Mapping[str, Tensor]


@dataclass(frozen=True)
class Model:
    """What a run learned.

    Attributes:
        config: Of the run.
        prepared: Its strategy and network.
        meta: The meta-parameters that were evaluated.
    """

    config: RunConfig
    prepared: PreparedStrategy
    meta: MetaParams

    def adapt(self, support: Batch) -> Predictor:
        """Return what a client predicts after adapting to its support."""
        prepared = self.prepared
        return prepared.strategy.adapt(
            prepared.learner, self.meta, prepared.initial_memory, support
        )

    def tasks_of(self, scenario: Scenario, clients: Sequence[int] | None = None) -> Task:
        """Return tasks of test clients (None: all), one size, as the strategy takes them."""
        chosen = scenario.clients()["test"] if clients is None else clients
        totals = totals_of(scenario, scenario.clients()["train"])
        (group,) = scenario.tasks("test", chosen, 0, totals)
        draws, seed = self.prepared.strategy.facts.draws, self.config.seed
        problem = scenario.problem()
        return prepared_tasks(group, problem, draws, seed=seed, split="test", round=0).tasks

    def plays(self, task: Task, steps: int | None) -> Prediction:
        """Return what one client does in its query after some steps (None: its own)."""
        found: Prediction = self._predicted(task, steps)
        return {name: value.detach() for name, value in found.items()}

    def predicts(self, task: Task, steps: int | None = None) -> Tensor:
        """Return what one client predicts for its query after some steps (None: its own)."""
        found: Tensor = self._predicted(task, steps)
        return found.detach()

    def predicts_all(self, tasks: Task, steps: int | None = None) -> Tensor:
        """Return what every client of stacked tasks predicts, ``(clients, query, outputs)``."""
        found: Tensor = vmap(lambda task: self._predicted(task, steps))(tasks)
        return found.detach()

    def _predicted(self, task: Task, steps: int | None) -> Any:
        own = self.prepared.strategy
        strategy = own if steps is None else with_adaptation_steps(own, steps)
        ready = cast(task, self.config.make_problem().dtype)
        memory = self.prepared.initial_memory
        return strategy.adapt(self.prepared.learner, self.meta, memory, ready.support)(
            ready.query.x
        )


def model_of(path: Path) -> Model:
    """Return the model of a run.

    Raises:
        RunDirectoryError: If the folder holds no run, or a damaged one.
    """
    directory = RunDirectory(path)
    config = resolve(directory.config_table())
    prepared = prepare(config.make_strategy(), config.make_problem())
    return Model(config, prepared, directory.load_meta())
