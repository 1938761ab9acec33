"""Strategies side by side from Python and from the command line, and the result."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmaml.api.frames import frame
from fedmaml.api.naming import (
    Named,
    places,
    refuse_elsewhere,
    scenario_named,
    settings_of,
    strategy_named,
)
from fedmaml.comparison import comparing, planning, tuning
from fedmaml.comparison.conclusions import ALWAYS, Comparison
from fedmaml.comparison.tables import write_files
from fedmaml.config import Flat, load_toml
from fedmaml.core.errors import ConfigurationError
from fedmaml.report import missing_libraries, write_report
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.showing import in_notebook
from fedmaml.simulations.backends import refuse_without_package

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLUMNS = ("strategy", "rounds", "before", "after", "difference", "verdict")


@dataclass(frozen=True)
class Compared:
    """A comparison and what was written of it.

    Attributes:
        comparison: Its conclusions.
        files: Tables in `folder`.
        runs: The run directories.
        page: The report; None if there is none.
        folder: Where everything is.
    """

    comparison: Comparison
    files: list[Path]
    runs: list[Path]
    page: Path | None
    folder: Path


@dataclass(frozen=True, repr=False)
class ComparisonResult:
    """A comparison of strategies on the same clients and seeds.

    Attributes:
        path: Its folder: tables, and one run directory for each strategy and seed.
        comparison: Rows, pairs, references, costs and notes, as data.
        directories: The run directories; ``fm.load`` reads one.
    """

    path: Path
    comparison: Comparison
    directories: tuple[Path, ...]

    def __repr__(self) -> str:
        """Return the answer and the folder."""
        return f"<ComparisonResult {self.headline} {self.path}>"

    @property
    def headline(self) -> str:
        """The answer in one line."""
        return self.comparison.headline

    def table(self) -> "pd.DataFrame | list[dict[str, Any]]":
        """Return one row for each strategy, the baselines first.

        Columns: strategy, rounds, the headline metric before and after adaptation, its difference
        to fine-tuned FedAvg with 95 % interval (over seeds and clients) and p-value (Holm), and the
        verdict. None where there is no value, as for the difference of FedAvg to itself.

        Returns:
            A ``pandas.DataFrame``; without pandas a list of dictionaries.
        """
        rows = []
        for row in map(asdict, self.comparison.rows):
            low, high = row["difference_ci95"] or (None, None)
            values = {key: row[key] for key in _COLUMNS}
            interval = {"difference_low": low, "difference_high": high, "p": row["p_holm"]}
            rows.append(values | interval | {"verdict": values.pop("verdict")})
        return frame(rows)

    def plot(self) -> "Figure":
        """Draw loss and validation metric of all strategies over the rounds, seeds as a band.

        Returns:
            A figure of matplotlib.

        Raises:
            ConfigurationError: If matplotlib is not installed (extra ``report``).
        """
        from fedmaml.report import plot

        return plot(self.directories, self.comparison)

    def figures(
        self,
        out: str | os.PathLike[str] | None = None,
        *,
        style: str = "paper",
        width: str | None = None,
        format: str = "pdf",
    ) -> tuple[Path, ...]:
        """Write figures for an article, their numbers as CSV, and tables for LaTeX, anew.

            fm.compare("digits", ["maml"]).figures(width="3.25in", format="pdf")

        Args:
            out: Folder; None: ``paper`` in the folder of the comparison.
            style: "paper" or "page".
            width: E.g. "3.25in", "8.3cm"; None: one column of two.
            format: "pdf" with embedded fonts, "svg" or "png".

        Returns:
            The files.

        Raises:
            ConfigurationError: If a library is missing (extra ``report``), or a word is unknown.
        """
        from fedmaml.report import write_figures

        return write_figures(
            self.directories, self.path / "paper" if out is None else Path(out), style=style,
            width=width, format=format, comparison=self.comparison, force=True,
        )  # fmt: skip

    def report(self) -> Path:
        """Write ``report.html`` into the folder, anew, and return its path.

        Raises:
            ConfigurationError: If a library is missing (extra ``report``).
        """
        page = self.path / "report.html"
        return write_report(self.directories, page, self.comparison, force=True).page


def compare(
    scenario: Any,
    strategies: Sequence[Any] | str,
    *,
    seeds: int = 5,
    rounds: int | None = None,
    equal: str | None = None,
    tune: int | None = None,
    config: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool | None = None,
    **settings: Any,
) -> ComparisonResult:
    """Compare strategies with fine-tuned FedAvg, `local` and `fedadam`; as `fedmaml compare`.

        fm.compare("digits", strategies=["maml", "fomaml"], seeds=5)
        fm.compare("digits", ["maml"], **{"maml:inner.lr": 0.1})        a setting of one strategy

    Complete runs in ``out`` are reused.

    Args:
        scenario: As of ``fm.run``; its seed is that of each run.
        strategies: Each as of ``fm.run``; a value has exactly its settings.
        seeds: How many: 0, 1, ...; one concludes nothing.
        rounds: Rounds of training; None: as each one's recipe says.
        equal: One budget for all: "rounds", "bytes", "flops" or a scenario's counter; None:
            "rounds" if ``rounds`` is given, else recipes.
        tune: Trials for each strategy to tune its settings on validation clients; None: none.
        config: TOML file with settings, which arguments override.
        out: Folder; None: ``runs/compare-SCENARIO``.
        force: Run again what ``out`` holds with other settings.
        progress: Show a progress bar, on the terminal or in a notebook; None: in notebooks.
        **settings: For all strategies that know them, or, as "strategy:key", for one.

    Raises:
        FedmamlError: If a setting, the data or a run fails; says what to change. A strategy that
            diverges is a row of the result.
    """
    if isinstance(strategies, str):
        strategies = [strategies]
    task, named = scenario_named(scenario), [strategy_named(one) for one in strategies]
    names = [one.name for one in named]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(
            f"strategies = {names}: {min(doubled)!r} is there twice, and one strategy has one row; "
            "give the other another class name, or compare it in a comparison of its own"
        )
    layers = [*([load_toml(Path(config))] if config else []), places(task, named)]
    layers.append(settings_of(settings, task.name, list(dict.fromkeys([*ALWAYS, *names]))))
    made = compared(
        task.name, names, seeds, layers, rounds=rounds, equal=equal, tune=tune,
        out=Path(out) if out is not None else None, force=force,
        progress=in_notebook() if progress is None else progress,
        named=(task, *named), report=False,
    )  # fmt: skip
    runs = tuple(path.absolute() for path in made.runs)
    return ComparisonResult(made.folder.absolute(), made.comparison, runs)


def compared(
    scenario: str,
    names: Sequence[str],
    seeds: int,
    layers: Sequence[Flat],
    *,
    rounds: int | None = None,
    equal: str | None = None,
    tune: int | None = None,
    out: Path | None = None,
    force: bool = False,
    progress: bool = False,
    named: Sequence[Named] = (),
    report: bool = True,
) -> Compared:
    """Plan, tune, run and compare; write the tables.

    Args:
        scenario: Name in the catalogue.
        names: Of strategies in the catalogue.
        seeds: As of `compare`; so are the others.
        layers: Settings, see `planning.plan`.
        rounds: Rounds of training.
        equal: What all get alike.
        tune: Trials.
        out: Folder.
        force: Replace runs with other settings.
        progress: Show a progress bar.
        named: What may exist in this process alone.
        report: Write the report, too, if its libraries are installed.
    """
    planned = planning.plan(scenario, names, seeds, layers, rounds, equal)
    first = {name: configs[0] for name, configs in planned.runs.items()}
    for config in first.values():
        refuse_elsewhere(named, config)
        refuse_without_package(config.backend)
    if tune is not None:
        tuning.check(first, tune)
    folder = out or Path("runs") / f"compare-{scenario}"
    with RunDirectory(folder).entered():
        if not force:
            comparing.refuse_other_contents(folder, tuned=tune is not None)
        found = None
        if tune is not None:
            found = tuning.tune(first, planned.budget, tune, folder, force=force, progress=progress)
            planned = planning.tuned(planned, found)
        comparing.run_all(planned, folder, force=force, progress=progress)
        comparison = comparing.compare(planned, folder, found)
        words = planning.command(scenario, names, seeds, layers, rounds, equal, tune)
        comparison = replace(comparison, command=words)
        files = write_files(comparison, folder)
        runs = comparing.directories(planned, folder)
        page = None
        if report and not missing_libraries():
            at = folder / "report.html"
            page = write_report(runs, at, comparison, force=True, progress=progress).page
    return Compared(comparison, files, runs, page, folder)
