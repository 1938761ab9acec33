"""MLflow: one MLflow run for each run directory.

It goes to the tracking server or database that ``uri`` or the environment variable
MLFLOW_TRACKING_URI names.
"""

import logging
import os
from typing import TYPE_CHECKING

from fedmaml.core.errors import BackendError, RunDirectoryError
from fedmaml.core.extras import imported
from fedmaml.exporting.records import Recorded

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DIRECTORY = "fedmaml.directory"
_MAX_METRICS, _MAX_PARAMS = 1000, 100  # MLflow takes no more in one request
_LONGEST = 500  # characters of a parameter, which every version of MLflow takes
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "cut short": "KILLED"}


def to_mlflow(
    run: Recorded, name: str, *, uri: str | None = None, experiment: str = "", force: bool = False
) -> int:
    """Log a run.

    Args:
        run: What to log.
        name: Of the MLflow run.
        uri: Of the tracking server or database; None: MLflow's own choice.
        experiment: Name of the MLflow experiment; "": "fedmaml " and the scenario.
        force: Replace what was logged of the same run directory.

    Returns:
        The number of points logged.

    Raises:
        ConfigurationError: If MLflow is not installed.
        RunDirectoryError: If this run directory was logged there already, and not ``force``.
        BackendError: If MLflow itself fails, e.g. as the server cannot be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = imported("mlflow", "mlflow", "the export")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    try:
        return _logged(mlflow.MlflowClient(tracking_uri=uri), run, name, experiment, force)
    except mlflow.exceptions.MlflowException as error:
        raise BackendError(
            f"MLflow ({uri or 'as MLFLOW_TRACKING_URI says'}) failed: {error}"
        ) from error


def _logged(client: "MlflowClient", run: Recorded, name: str, experiment: str, force: bool) -> int:
    experiment = experiment or f"fedmaml {run.settings['scenario']}"
    known = client.get_experiment_by_name(experiment)
    number = known.experiment_id if known else client.create_experiment(experiment)
    directory = str(run.path.resolve())
    _make_room(client, number, directory, force)
    made = client.create_run(
        number,
        start_time=_milliseconds(run.started),
        tags={_DIRECTORY: directory},
        run_name=name,
    )
    last = run.started
    try:
        count, last = _log(client, made.info.run_id, run)
    finally:  # after Ctrl-C, too
        client.set_terminated(made.info.run_id, _STATUS[run.outcome()], _milliseconds(last))
    return count


def _make_room(client: "MlflowClient", experiment: str, directory: str, force: bool) -> None:
    quoted = directory.replace("'", "\\'")
    for earlier in client.search_runs([experiment], f"tags.`{_DIRECTORY}` = '{quoted}'"):
        if not force:
            raise RunDirectoryError(
                f"{directory} is in MLflow already, as run {earlier.info.run_id} "
                f"({earlier.info.run_name!r}): delete that one, or replace it with --force"
            )
        client.delete_run(earlier.info.run_id)


def _log(client: "MlflowClient", run_id: str, run: Recorded) -> tuple[int, float]:
    """Log settings and points; return how many points, and when the last one was."""
    from mlflow.entities import Metric, Param

    params = [Param(key, str(value)[:_LONGEST]) for key, value in run.settings.items()]
    for start in range(0, len(params), _MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
    count, last = 0, run.started
    waiting: list[Metric] = []
    for point in run.points:
        moment = _milliseconds(point.seconds)
        waiting += [Metric(key, value, moment, point.round) for key, value in point.values.items()]
        count, last = count + 1, point.seconds
        if run.poll or len(waiting) + len(point.values) > _MAX_METRICS:
            client.log_batch(run_id, metrics=waiting)
            waiting = []
    client.log_batch(run_id, metrics=waiting)
    return count, last


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
