"""The model of a run: what adapts to a site's examples."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fedmaml.config import RunConfig
from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError, FedmamlError, UnsupportedProblemError
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.losses import binary_cross_entropy
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.tasks import Batch
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations import tabular
from fedmaml.simulations.datasets.rows import Rows
from fedmaml.strategies.base import MetaStrategy, adaptation_of, with_adaptation_steps

Target = Literal["classes", "two classes", "numbers"]


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model that adapts.

    Attributes:
        config: Of the run.
        strategy: Adapts.
        learner: Network and loss.
        meta: Meta-parameters.
        memory: What a client keeps before its first round.
        rows: How rows of tables become inputs; None: inputs are the network's own.
        shared_statistics: Totals over the training clients; means and scales.
    """

    config: RunConfig
    strategy: MetaStrategy
    learner: Learner
    meta: MetaParams
    memory: Params
    rows: Rows | None
    shared_statistics: Params

    @property
    def problem(self) -> Problem:
        """Network, loss and metrics."""
        return self.learner.problem

    @property
    def target(self) -> Target:
        """What is predicted."""
        if self.rows is not None and self.rows.schema.kind == "regression":
            return "numbers"
        if self.problem.classes is not None:
            return "classes"
        known = self.rows is not None or self.problem.loss is binary_cross_entropy
        return "two classes" if known else "numbers"

    @property
    def steps(self) -> int | None:
        """Number of steps by which it adapts; None: it adapts without steps."""
        own = adaptation_of(self.strategy)
        return None if own is None else own.steps

    def taking(self, steps: int | None) -> MetaStrategy:
        """Return the strategy with another number of steps; None leaves it.

        Raises:
            ConfigurationError: If it adapts without steps.
        """
        if steps is None:
            return self.strategy
        if steps < 0:
            raise ConfigurationError(f"steps = {steps}: give 0, for no adaptation, or more")
        if self.steps is None:
            label = self.strategy.facts.label
            raise ConfigurationError(f"steps = {steps}: {label} adapts without steps; leave it out")
        return with_adaptation_steps(self.strategy, steps)

    def adapted(self, x: Tensor, y: Tensor, steps: int | None = None) -> Predictor:
        """Adapt to examples.

        Args:
            x: As the network takes them, ``(rows, *features)``.
            y: As the loss takes them.
            steps: Of adaptation; None: as in the run; 0: none.
        """
        support = Batch(x, y.to(self.problem.dtype) if y.is_floating_point() else y)
        return self.taking(steps).adapt(self.learner, self.meta, self.memory, support)


def model_of(path: str | os.PathLike[str]) -> Model:
    """Return the model of a complete run.

    Raises:
        RunDirectoryError: If the folder holds no run, or one that is not complete or is damaged.
        ConfigurationError: If its data or code are gone and the folder does not say all.
        UnsupportedProblemError: If its predictions need noise, which a site does not have.
    """
    folder = Path(path).absolute()
    summary = folder / "summary.json"
    stamp = summary.stat().st_mtime_ns if summary.exists() else 0
    return _read(folder, stamp)


@lru_cache(maxsize=4)
def _read(folder: Path, stamp: int) -> Model:
    del stamp  # a run that was repeated is read anew
    directory = RunDirectory(folder)
    complete_summary(directory)  # refuses what is none
    config, rows = directory.config(with_data=False), directory.rows()
    if rows is None:  # a run of `flwr run`, or a scenario without tables
        rows = config.make_scenario().rows()
    state = directory.newest_state().state
    totals = _totals(config, folder) if state is None else state.shared_statistics
    model = built(config, rows, totals)
    return Model(**vars(model) | {"meta": directory.load_meta()})


def built(config: RunConfig, rows: Rows | None, shared_statistics: Params) -> Model:
    """Return the model of a configuration before training.

    Args:
        config: Of a run.
        rows: How rows become inputs; with it the run's data are not read.
        shared_statistics: Totals over the training clients.

    Raises:
        UnsupportedProblemError: If its predictions need noise.
    """
    problem = _problem(config, rows)
    strategy = config.make_strategy()
    if problem.draws or strategy.facts.draws:
        raise UnsupportedProblemError(
            f"the network or {strategy.facts.label} draws noise for every client, which no model "
            "can take away: choose a strategy and a network without draws"
        )
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    start = strategy.build(problem, seeding.generator(config.seed, "init"))
    return Model(
        config, strategy, start.learner, start.state.meta, start.memory, rows, shared_statistics
    )


def _problem(config: RunConfig, rows: Rows | None) -> Problem:
    if rows is None or rows.own:
        return config.make_problem()
    made = tabular.network(rows.schema, rows.network)
    return tabular.problem(rows.schema, made).in_dtype(config.dtype)


def _totals(config: RunConfig, folder: Path) -> Params:
    """Return the shared statistics of a run that kept none, from its data.

    Raises:
        ConfigurationError: If the data are gone.
    """
    try:
        scenario = config.make_scenario()
        each = [scenario.statistics(client) for client in scenario.clients()["train"]]
    except FedmamlError as error:
        raise ConfigurationError(
            f"{folder} keeps no totals of the training clients (journal.safetensors), and they "
            f"cannot be computed anew ({error}); bring journal.safetensors of the run back, or the "
            "data it was trained on"
        ) from error
    return {name: torch.stack([one[name] for one in each]).sum(0) for name in each[0]}
