"""The same tuning budget for every strategy, spent on validation clients alone.

A trial is a run with other settings: its run directory is DIR/tuning/<strategy>/trial<k>, and its
configuration records that it was evaluated on validation clients (``evaluation.split``), so no test
client was evaluated. Trial 0 is the recipe; optuna's TPE proposes each further trial from those
before it. Proposals depend on the values only, so a search that was interrupted, or is extended,
reuses the complete trials and runs the others.

Bergstra, Bardenet, Bengio, Kegl. Algorithms for Hyper-Parameter Optimization. NIPS 2011 (TPE).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from fedmaml.comparison.budget import Budget, affordable_rounds, within_budget
from fedmaml.comparison.findings import Setting, Trial, Tuned
from fedmaml.comparison.given import given_to
from fedmaml.comparison.reuse import is_complete, make_complete, progress_bar
from fedmaml.config import Flat, RunConfig, flatten_table, resolve
from fedmaml.config.checks import idle_steps
from fedmaml.core.errors import BackendError, ConfigurationError, FedmamlError
from fedmaml.core.extras import imported
from fedmaml.runs.completeness import what_is_missing
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.outcome import diverged_from, what_went_wrong

SEED = 1_000_000
"""Seed of all trials. It is never compared, so no test client influences the tuning."""

_FIRST_AT_RANDOM = 5  # trials before TPE models anything; optuna's own 10 would be all of them
_DIGITS = 3  # of a proposed number: what a reader can type


@dataclass(frozen=True)
class Around:
    """A search from recipe / factor to recipe * factor, uniform in the logarithm.

    Attributes:
        factor: Width of the search.
        whole: Whether the setting is a whole number, >= 1.
    """

    factor: float
    whole: bool = False

    def bounds(self, recipe: float) -> tuple[float, float]:
        """Return the smallest and the largest value."""
        low, high = recipe / self.factor, recipe * self.factor
        return (max(1, round(low)), round(high)) if self.whole else (low, high)


SPACE = {"lr": Around(10.0), "steps": Around(3.0, whole=True)} | dict.fromkeys(
    ("mu", "lam", "q", "precision", "kl"), Around(10.0)
)
"""Last word of a strategy's setting -> where it is searched: step sizes and numbers of steps, of
inner loop, outer loop, head and adaptation; the weight of a proximal term, of fairness, of a
prior."""
NOT_TUNED = (
    "optimizer", "momentum", "schedule", "horizon", "batch", "epochs", "bound", "later", "size",
    "conjugate", "last", "anneal", "delta", "mixture", "participation", "scale", "newton", "spread",
    "noise", "on", "pooled", "hidden", "width", "slots", "decay", "reads", "full_context",
    "filters", "dilations", "keys", "loss", "latent", "context", "replay", "every",
    "explored", "rate",
)  # fmt: skip
"""Settings of strategies that belong to the recipe."""


def search_space(config: RunConfig, budget: Budget) -> dict[str, Around]:
    """Return the settings that tuning searches, by dotted key; given ones are fixed."""
    options = flatten_table(config.options)
    fixed = {**given_to(budget.given, config.scenario, config.strategy), **idle_steps(options)}
    return {
        key: SPACE[_word(key)]
        for key, value in options.items()
        if is_tunable(key) and value and key not in fixed
    }


def is_tunable(key: str) -> bool:
    """Return whether tuning searches a setting."""
    return _word(key) in SPACE and not key.startswith("task.")


def _word(key: str) -> str:
    return key.rpartition(".")[2]


def tune(
    configs: Mapping[str, RunConfig],
    budget: Budget,
    trials: int,
    out: Path,
    *,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Tuned]:
    """Search for good settings of every strategy, with the same number of trials.

    Args:
        configs: Strategy -> its configuration in the comparison, any seed.
        budget: Holds in every trial, too.
        trials: Trials for each strategy, the recipe included.
        out: Folder of the comparison.
        force: Replace runs with other settings, instead of refusing.
        progress: Show a progress bar on standard error.

    Raises:
        ConfigurationError: If there are no validation clients, no trials, or no optuna.
        FedmamlError: If a trial fails; divergence is a bad result, not an error.
    """
    check(configs, trials)
    optuna = _optuna()
    found = {}
    with progress_bar("trials", progress) as bar:
        task = bar.add_task("", total=trials * len(configs))
        for name, config in configs.items():
            search = _Search(optuna, config, budget, out / "tuning" / name, force)
            found[name] = search.run(trials, bar, task)
        bar.update(task, description="all trials complete")
    return found


def check(configs: Mapping[str, RunConfig], trials: int) -> None:
    """Refuse what cannot be tuned, before anything is written.

    Raises:
        ConfigurationError: If there are no validation clients, no trials, or no optuna.
    """
    if trials < 1:
        raise ConfigurationError(
            f"tune = {trials}: allowed: 1 or more trials for every strategy; without --tune the "
            "recipes are taken"
        )
    _optuna()
    first = next(iter(configs.values()))
    if not first.make_scenario().clients()["validation"]:
        raise ConfigurationError(
            f"tune = {trials}: trials are evaluated on validation clients, and scenario "
            f"{first.scenario!r} has none with these settings; leave out --tune"
        )


class _Search:
    """The trials of one strategy."""

    def __init__(
        self, optuna: Any, config: RunConfig, budget: Budget, folder: Path, force: bool
    ) -> None:
        metric = config.make_problem().metrics[0]
        changes = {"seed": SEED, "evaluation.split": "validation"}
        self.config = resolve(config.to_table(), changes)
        self.recipe = flatten_table(self.config.options)
        self.space = search_space(self.config, budget)
        self._optuna, self._budget, self._folder, self._force = optuna, budget, folder, force
        self._sign = 1.0 if metric.better == "higher" else -1.0
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(n_startup_trials=_FIRST_AT_RANDOM, seed=0),
        )
        self._start = {key: self.recipe[key] for key in self.space}
        self._study.enqueue_trial(self._start)

    def run(self, trials: int, bar: Progress, task: Any) -> Tuned:
        """Run them, one after the other."""
        done: list[Trial] = []
        for number in range(trials):
            bar.update(task, description=f"tuning {self.config.strategy}")
            proposed = self._study.ask(self._distributions())
            trial = self._trial(number, _rounded(proposed.params) if number else self._start)
            done.append(trial)
            if trial.value is None:
                self._study.tell(proposed, state=self._optuna.trial.TrialState.PRUNED)
            else:
                self._study.tell(proposed, self._sign * trial.value)
            bar.advance(task)
        values = [-math.inf if t.value is None else self._sign * t.value for t in done]
        best = done[values.index(max(values))]  # the earliest of equals; the recipe, if all failed
        return Tuned(
            trials=trials,
            failed=sum(trial.value is None for trial in done),
            recipe=done[0].value,
            best=best.value,
            settings={key: Setting(self.recipe[key], best.settings[key]) for key in self.space},
            history=tuple(done),
        )

    def _distributions(self) -> dict[str, Any]:
        made = {}
        for key, around in self.space.items():
            low, high = around.bounds(self.recipe[key])
            kind = "IntDistribution" if around.whole else "FloatDistribution"
            made[key] = getattr(self._optuna.distributions, kind)(low, high, log=True)
        return made

    def _trial(self, number: int, settings: Flat) -> Trial:
        """Run one trial, unless it is there; return its value on the validation clients."""
        changed = resolve(self.config.to_table(), settings)
        if affordable_rounds(changed, self._budget) is None:
            return Trial(settings, None, "not one round fits into the budget")
        (config,) = within_budget([changed], self._budget)
        path = self._folder / f"trial{number}"
        if not is_complete(config, path, self._force):
            try:
                make_complete(config, path)
            except BackendError as error:
                # A finished run that learned nothing is a result of its settings.
                if what_is_missing(RunDirectory(path)):
                    raise BackendError(f"{self._label(number)}: {error}") from error
            except FedmamlError as error:
                raise BackendError(f"{self._label(number)}: {error}") from error
        return _outcome(RunDirectory(path), settings)

    def _label(self, number: int) -> str:
        return f"tuning {self.config.strategy}, trial {number}"


def _outcome(directory: RunDirectory, settings: Flat) -> Trial:
    """Return the result of a complete trial."""
    summary = directory.summary()
    assert summary is not None, "it was found complete"
    value, wrong = summary["metric"]["after"], what_went_wrong(summary)
    if start := diverged_from(directory):
        wrong = wrong or f"from round {start} on no update could be used"
    if value is None and not wrong:
        wrong = f"{summary['metric']['name']} diverged or is undefined at validation clients"
    return Trial(settings, None if wrong else value, wrong)


def _rounded(proposed: Mapping[str, float]) -> Flat:
    return {
        key: value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")
        for key, value in proposed.items()
    }


def _optuna() -> Any:
    optuna = imported("optuna", "tune", "tuning (--tune)")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
