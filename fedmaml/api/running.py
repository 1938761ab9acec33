"""One run from Python, and its result."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmaml.api.frames import frame, metric_rows
from fedmaml.api.naming import refuse_elsewhere, scenario_named, settings_of, strategy_named
from fedmaml.config import Flat, flatten_table, load_toml, resolve
from fedmaml.core.errors import ConfigurationError
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fedmaml.adapting.estimators import SiteModel
    from fedmaml.core.params import MetaParams, Params


@dataclass(frozen=True, repr=False)
class RunResult:
    """A finished run.

    Attributes:
        path: Its folder.
        summary: Content of its ``summary.json``: metrics, costs, engine, versions.
    """

    path: Path
    summary: dict[str, Any]

    def __repr__(self) -> str:
        """Return the headline metric and the folder."""
        metric, of = self.summary["metric"], self.summary
        return (
            f"<RunResult {of['scenario']} {of['strategy']}, {of['rounds']} rounds: "
            f"{metric['name']} {_text(metric['before'])} before adaptation, "
            f"{_text(metric['after'])} after; {self.path}>"
        )

    def table(self) -> "pd.DataFrame | list[dict[str, Any]]":
        """Return one row for each metric and figure.

        Columns: name, unit, better ("higher", "lower", "neither"), and the means over the evaluated
        clients before and after adaptation, the latter with its 95 % interval over clients.
        None where there is no value.

        Returns:
            A ``pandas.DataFrame``; without pandas a list of dictionaries.
        """
        return frame(metric_rows(self.summary))

    def clients(self) -> "pd.DataFrame | list[dict[str, Any]]":
        """Return one row for each evaluated client: its metrics, "<metric>:before" and ":after".

        Raises:
            RunDirectoryError: If the file is damaged; so do the methods below.
        """
        return frame(RunDirectory(self.path).clients())

    def rounds(self) -> "pd.DataFrame | list[dict[str, Any]]":
        """Return one row for each round of training, by dotted name.

        E.g. "metrics.loss_after", "evaluation.accuracy:after" (in rounds that evaluate), "seconds",
        "cost.payload_bytes_up"; "rejected" is the number of updates that were left out.
        """
        rows = RunDirectory(self.path).rounds()
        return frame([flatten_table(row | {"rejected": len(row["rejected"])}) for row in rows])

    @property
    def meta(self) -> "MetaParams":
        """The evaluated meta-parameters by group: "theta", and further ones of some strategies."""
        return RunDirectory(self.path).load_meta()

    @property
    def theta(self) -> "Params":
        """The initialisation: name of the network's parameter -> tensor."""
        return self.meta["theta"]

    def estimator(self, steps: int | None = None) -> "SiteModel":
        """Return an estimator of scikit-learn's kind that adapts this model by ``fit(X, y)``.

        Args:
            steps: Of adaptation; None: as in the run; 0: none.
        """
        from fedmaml.adapting.estimators import estimator_of

        return estimator_of(self.path, steps)

    def adapt(self, X: Any, y: Any, steps: int | None = None) -> "SiteModel":  # noqa: N803
        """Adapt the model to a site's examples, and estimate what that gains.

            site = fm.load("runs/csv-maml-seed0").adapt(frame, frame["y"])
            print(site.gain_.advice)        "adapt: ...", or "do not adapt: ..."
            site.predict(new)
            site.save("model")              safetensors, torch.export, ONNX, a model card

        Args:
            X: Of tables a frame with their columns; else numbers ``(rows, *features)``, as the
                scenario's network takes them. NaN where a number of a table is missing.
            y: Labels of the run's classes, or numbers in the target's own unit, ``(rows,)``.
            steps: Of adaptation; None: as in the run; 0: none.

        Returns:
            A fitted estimator with ``predict``, ``predict_proba`` (of classes), ``score``, ``save``
            and ``gain_``.

        Raises:
            DataError: If a value does not fit; names column and row.
            UnsupportedProblemError: If the model needs noise, or several inputs by name.
        """
        estimator = self.estimator(steps)
        estimator.estimate_gain(X, y)
        return estimator.fit(X, y)

    def plot(self) -> "Figure":
        """Draw loss and validation metric over the rounds; needs the extra ``report``.

        Returns:
            A figure of matplotlib.

        Raises:
            ConfigurationError: If matplotlib is not installed.
        """
        from fedmaml.report import plot

        return plot([self.path])

    def figures(
        self,
        out: str | os.PathLike[str] | None = None,
        *,
        style: str = "paper",
        width: str | None = None,
        format: str = "pdf",
    ) -> tuple[Path, ...]:
        """Write figures for an article, their numbers as CSV, and tables for LaTeX, anew.

        Args:
            out: Folder; None: ``paper`` in the run's folder.
            style: "paper" or "page".
            width: E.g. "3.25in", "8.3cm"; None: one column of two.
            format: "pdf" with embedded fonts, "svg" or "png".

        Returns:
            The files.

        Raises:
            ConfigurationError: If a library is missing, or a word is unknown.
        """
        from fedmaml.report import write_figures

        folder = self.path / "paper" if out is None else Path(out)
        return write_figures(
            [self.path], folder, style=style, width=width, format=format, force=True
        )

    def report(self) -> Path:
        """Write ``report.html`` into the folder, anew, and return its path; needs that extra, too.

        Raises:
            ConfigurationError: If a library is missing.
        """
        from fedmaml.report import write_report

        return write_report([self.path], force=True).page


def run(
    scenario: Any = None,
    strategy: Any = None,
    *,
    rounds: int | None = None,
    seed: int | None = None,
    config: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> RunResult:
    """Train on a scenario and evaluate on clients that did not train; as `fedmaml run`.

        fm.run("digits", strategy="maml", inner_steps=5, rounds=20)
        fm.run("wards.py", strategy=fm.MAML(inner=fm.GradientSteps(lr=0.1, steps=5)))
        fm.run(resume="runs/digits-maml-seed0")         goes on where it was cut short

    Args:
        scenario: A name (`fedmaml list`), the path of a Python file, a class that derives from
            ``fm.Scenario``, or a value of one, e.g. of ``fm.from_clients``. None only where
            ``config`` or ``resume`` names it.
        strategy: Likewise, of ``fm.MetaStrategy``; None: "maml", or that of ``config``. What a name
            or a class leaves open comes from the scenario's recipe; a value has exactly its
            settings.
        rounds: Rounds of training; None: as the recipe says.
        seed: Determines everything random; None: the scenario value's, else 0.
        config: TOML file with settings, which arguments override.
        out: Folder of the run; None: a new one below ``runs``.
        force: Overwrite the run that ``out`` holds.
        resume: Folder of a run that was cut short, which goes on to the same bits, with its own
            configuration: no other argument but ``progress`` may be given.
        progress: Show a progress bar, on the terminal or in a notebook; None: in notebooks.
        **settings: Any other setting, e.g. ``inner_steps=5`` or ``**{"inner.steps": 5}``; one of
            the scenario by its own name, e.g. ``cross=0.5``.

    Raises:
        FedmamlError: If a setting, the data or the run fails; says what to change.
    """
    from fedmaml.running import executed
    from fedmaml.runs.showing import in_notebook

    progress = in_notebook() if progress is None else progress
    if resume is not None:
        others = {"scenario": scenario, "strategy": strategy, "rounds": rounds, "seed": seed,
                  "config": config, "out": out, "force": force or None} | settings  # fmt: skip
        if given_too := [name for name, value in others.items() if value is not None]:
            raise ConfigurationError(
                f"resume goes on with the configuration of the run in {resume}; leave out "
                f"{', '.join(given_too)}"
            )
        folder = Path(resume)
        known = RunDirectory(folder).config()
        return RunResult(*executed(known, folder, resume=True, progress=progress))
    table = load_toml(Path(config)) if config else {}
    task = scenario_named(table.get("scenario", scenario) if scenario is None else scenario)
    algorithm = strategy_named(table.get("strategy", "maml") if strategy is None else strategy)
    given: Flat = {"scenario": task.name, "strategy": algorithm.name}
    given |= {"scenario_from": task.place} if task.place else {}
    given |= {"strategy_from": algorithm.place} if algorithm.place else {}
    own = {"rounds": rounds, "seed": seed}
    own = {key: value for key, value in own.items() if value is not None}
    resolved = resolve(
        table,
        task.settings | algorithm.settings | given,
        own | settings_of(settings, task.name, [algorithm.name]),
    )
    refuse_elsewhere((task, algorithm), resolved)
    target = Path(out) if out is not None else None
    return RunResult(*executed(resolved, target, force=force, progress=progress))


def load(path: str | os.PathLike[str]) -> RunResult:
    """Return the result of a finished run from its folder.

    Raises:
        RunDirectoryError: If it holds no run, or one that is not complete or is damaged.
    """
    directory = RunDirectory(Path(path).absolute())
    return RunResult(directory.path, complete_summary(directory))


def load_model(path: str | os.PathLike[str]) -> "SiteModel":
    """Return a fitted estimator from the folder that its ``save``, or `fedmaml adapt`, wrote.

    A model of a strategy or a network in a file of one's own imports that file.

    Raises:
        RunDirectoryError: If the folder holds no model, or it is damaged.
    """
    from fedmaml.adapting.folder import load as loaded

    return loaded(Path(path).absolute())


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
