"""Strategies next to each other: the same clients, the same seeds, the same terms.

plan       settings -> one configuration per strategy and seed       checked before anything runs
tuned      a plan, with the settings that `tuning` found on validation clients
run_all    configurations -> run directories DIR/<strategy>/seed<k>  complete ones are reused
compare    run directories -> what may be concluded from them, see `conclusions`
"""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedmaml.comparison.conclusions import ALWAYS, Comparison, conclude
from fedmaml.comparison.diverging import Runs
from fedmaml.comparison.findings import Tuned
from fedmaml.comparison.reuse import is_complete, progress_bar
from fedmaml.comparison.terms import Terms, agree, settle
from fedmaml.comparison.tuning import SEED, is_tunable
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.config import Flat, RunConfig, known_keys, nearest, resolve
from fedmaml.core.errors import (
    BackendError,
    ConfigurationError,
    DivergedError,
    FedmamlError,
    RunDirectoryError,
)
from fedmaml.preflight import preflight
from fedmaml.running import execute
from fedmaml.server.outcome import has_diverged, rates_of_training, what_went_wrong
from fedmaml.server.run_directory import RunDirectory

_OWN_KEYS = {
    "scenario": "as the argument",
    "strategy": "with --strategies",
    "seed": "with --seeds",
    "evaluation.split": "as 'test', and as 'validation' while it tunes",
}


@dataclass(frozen=True)
class Plan:
    """What a comparison runs.

    Attributes:
        runs: Strategy -> its configuration for every seed.
        terms: What holds for all of them.
    """

    runs: Mapping[str, Sequence[RunConfig]]
    terms: Terms


# --- plan -------------------------------------------------------------------------------------


def plan(
    scenario: str,
    strategies: Sequence[str],
    seeds: int,
    layers: Sequence[Flat],
    rounds: int | None = None,
    equal: str | None = None,
) -> Plan:
    """Return what to run: every strategy with its recipe and the common settings that it knows.

    Args:
        scenario: Name in the catalogue.
        strategies: Names in the catalogue; `ALWAYS` are added.
        seeds: How many; they are 0, 1, ...
        layers: Common settings, later ones winning.
        rounds: Rounds of training for all but "local", which has none; None: as in the recipes.
        equal: What all strategies get the same amount of, see `terms`.

    Raises:
        ConfigurationError: Names what is wrong, what is allowed and the nearest right word.
    """
    if not 1 <= seeds <= SEED:
        raise ConfigurationError(
            f"seeds = {seeds}: allowed: 1 or more (at most {SEED:,}); 5 are enough for most "
            "scenarios"
        )
    names = list(dict.fromkeys([*ALWAYS, *strategies]))
    given: Flat = {key: value for layer in layers for key, value in layer.items()}
    known = _check_keys(scenario, names, given)
    terms = agree(scenario, given, rounds, equal)
    unsettled = ("evaluation.choose", *(("rounds",) if terms.budget is not None else ()))
    planned: dict[str, list[RunConfig]] = {}
    for name in names:
        own = {key: given[key] for key in given if key in known[name] and key not in unsettled}
        main = {"scenario": scenario, "strategy": name}
        every_seed = [resolve(own, main, {"seed": seed}) for seed in range(seeds)]
        planned[name] = settle(every_seed, terms)
    for name in names:
        if planned[name][0].task != planned[REFERENCE][0].task:
            raise ConfigurationError(
                f"the recipes of {name!r} and {REFERENCE!r} on {scenario!r} set different tasks, "
                "so that they cannot be compared; set the task.* keys that differ with --set"
            )
    return Plan(planned, terms)


def _check_keys(scenario: str, names: Sequence[str], given: Flat) -> dict[str, list[str]]:
    """Refuse settings that no strategy knows; return the keys that each of them knows."""
    for key, how in _OWN_KEYS.items():
        if key in given:
            raise ConfigurationError(
                f"{key} = {given[key]!r}: a comparison takes the {key} {how}; remove the setting"
            )
    for name in names:
        resolve({"scenario": scenario, "strategy": name})  # a wrong name is told as such
    known = {name: known_keys(scenario, name) for name in names}
    everything = list(dict.fromkeys(key for keys in known.values() for key in keys))
    for key in given:
        if key not in everything:
            raise ConfigurationError(
                f"unknown key {key!r}: neither scenario {scenario!r} nor any of "
                f"{', '.join(names)} has it{nearest(key, everything)}; "
                f"known: {', '.join(key for key in everything if key not in _OWN_KEYS)}"
            )
    return known


def tuned(planned: Plan, found: Mapping[str, Tuned]) -> Plan:
    """Return the plan with the settings that were found, on the same terms."""
    runs = {}
    for name, configs in planned.runs.items():
        chosen = {key: setting.chosen for key, setting in found[name].settings.items()}
        changed = [resolve(config.to_table(), chosen) for config in configs]
        runs[name] = settle(changed, planned.terms)
    return Plan(runs, planned.terms)


# --- run --------------------------------------------------------------------------------------


def run_all(planned: Plan, out: Path, *, force: bool = False, progress: bool = False) -> None:
    """Run what is not complete yet.

    Args:
        planned: What to run.
        out: Holds one run directory per strategy and seed.
        force: Run again what is there with other settings, instead of refusing.
        progress: Show a progress bar on standard error.

    Raises:
        RunDirectoryError: If ``out`` holds other runs (and not ``force``); nothing was changed.
        FedmamlError: If a run cannot be done; one that diverges says something of its strategy, and
            the others go on.
        KeyboardInterrupt: After Ctrl-C; the same command goes on where it was interrupted.
    """
    refuse_single_run(out)
    everything = [config for configs in planned.runs.values() for config in configs]
    missing = [config for config in everything if not _is_done(config, out, force)]
    if folder := os.environ.get("FEDMAML_DATA"):
        os.environ["FEDMAML_DATA"] = str(Path(folder).absolute())
    for strategy in dict.fromkeys(config.strategy for config in missing):
        preflight(planned.runs[strategy][0])
    with progress_bar("runs", progress) as bar:
        task = bar.add_task("", total=len(everything), completed=len(everything) - len(missing))
        for config in missing:
            label = f"{config.strategy}, seed {config.seed}"
            bar.update(task, description=label)
            try:
                execute(config, run_path(config, out), force=True)
            except DivergedError:
                pass  # what the run left says so, and `conclude` says it of the strategy
            except FedmamlError as error:
                raise BackendError(f"{label}: {error}") from error
            bar.advance(task)
        bar.update(task, description="all runs complete")


def _is_done(config: RunConfig, out: Path, force: bool) -> bool:
    """Return whether a run is there and came to something, be it that it diverged."""
    path = run_path(config, out)
    if not is_complete(config, path, force):
        return False
    directory = RunDirectory(path)
    summary = directory.summary()
    return summary is not None and (not what_went_wrong(summary) or has_diverged(directory))


def refuse_single_run(out: Path) -> None:
    """Refuse a folder that is itself a run directory.

    Raises:
        RunDirectoryError: If it is.
    """
    if (out / "config.toml").exists():
        raise RunDirectoryError(
            f"{out} is the directory of a single run: choose another folder with --out"
        )


def refuse_other_contents(out: Path, *, tuned: bool) -> None:
    """Refuse a folder in which a comparison would overwrite what it has not written itself.

    Raises:
        RunDirectoryError: If it is a run, holds a report of something else, or a comparison that
            was tuned where this one is not, or the reverse; told before any trial is run.
    """
    refuse_single_run(out)
    cure = "choose another folder with --out, or overwrite it with --force"
    made = out / "comparison.json"
    if not made.is_file():
        if (out / "report.html").exists():
            raise RunDirectoryError(f"{out / 'report.html'} is not of a comparison: {cure}")
        return
    try:
        was_tuned = bool(json.loads(made.read_text(encoding="utf-8")).get("tuning"))
    except (OSError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{made} cannot be read ({error}): {cure}") from error
    if was_tuned != tuned:
        holds, now = ("tuned", "not tuned") if was_tuned else ("not tuned", "tuned")
        raise RunDirectoryError(f"{out} holds a comparison that was {holds}, now {now}: {cure}")


def run_path(config: RunConfig, out: Path) -> Path:
    """Return the run directory of one run of a comparison."""
    return out / config.strategy / f"seed{config.seed}"


def directories(planned: Plan, out: Path) -> list[Path]:
    """Return the run directories of a comparison."""
    return [run_path(config, out) for configs in planned.runs.values() for config in configs]


def command(
    scenario: str,
    strategies: Sequence[str],
    seeds: int,
    layers: Sequence[Flat],
    rounds: int | None,
    equal: str | None,
    trials: int | None,
) -> str:
    """Return the command that makes a comparison, without where it is written to."""
    given = {key: value for layer in layers for key, value in layer.items() if key != "data_dir"}
    options = {
        "strategies": ",".join(strategies), "seeds": seeds, "rounds": rounds, "equal": equal,
        "tune": trials,
    }  # fmt: skip
    words = ["fedmaml", "compare", scenario]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    for key, value in given.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


# --- read -------------------------------------------------------------------------------------


def compare(planned: Plan, out: Path, found: Mapping[str, Tuned] | None = None) -> Comparison:
    """Read the complete runs of a comparison and judge them.

    Args:
        planned: What was run.
        out: Where.
        found: What tuning found, if the settings were tuned.
    """
    runs = {
        name: {config.seed: run_path(config, out) for config in configs}
        for name, configs in planned.runs.items()
    }
    made = conclude(runs)
    notes = (
        *_divergence_notes(planned, runs), _equal_note(planned.terms),
        _tuning_note(found, planned.terms), *made.notes,
    )  # fmt: skip
    return replace(made, notes=notes, equal=planned.terms.equal, tuning=dict(found or {}))


def _divergence_notes(planned: Plan, runs: Runs) -> list[str]:
    """Say which settings that were made for all made a strategy diverge."""
    given = planned.terms.given
    reached: dict[str, list[str]] = {}
    for name, seeds in runs.items():
        if any(has_diverged(RunDirectory(path)) for path in seeds.values()):
            for key in rates_of_training(planned.runs[name][0].to_table()):
                if key in given:
                    reached.setdefault(key, []).append(name)
    return [
        f"{key} = {given[key]:g} was set for all strategies that know it, and {', '.join(names)} "
        "diverged; without it each takes its recipe's own."
        for key, names in reached.items()
    ]


def _equal_note(terms: Terms) -> str:
    budget = f"{terms.budget:,}" if terms.budget is not None else ""
    reference = f"{REFERENCE}, not tuned, takes in {terms.reference_rounds} rounds"
    return {
        "recipes": "Every strategy trains as many rounds as its recipe says; bytes and operations "
        "differ, see what each took.",
        "rounds": f"All but local, which has none, train {budget} rounds; bytes and operations "
        "differ, see what each took.",
        "bytes": f"Every strategy trains as many rounds as {budget} bytes of tensors allow, down "
        f"and up, which is what {reference}.",
        "flops": f"Every strategy trains as many rounds as {budget} operations of clients allow, "
        f"which is what {reference}.",
    }[terms.equal]


def _tuning_note(found: Mapping[str, Tuned] | None, terms: Terms) -> str:
    if not found:
        return "Not tuned: every strategy has the settings of its recipe, or those that were given."
    trials = next(iter(found.values())).trials
    held = [key for key in terms.given if is_tunable(key)]
    kept = f" Given, so not tuned: {', '.join(held)}." if held else ""
    return (
        f"Tuned: {trials} trials for every strategy, the first of them its recipe, judged on "
        f"validation clients with seed {SEED}, which is not among the seeds compared; no test "
        f"client was asked.{kept}"
    )
