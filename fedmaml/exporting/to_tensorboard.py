"""TensorBoard: one folder of event files for each run.

``tensorboard --logdir OUT`` shows the rounds as curves over rounds or time, and all runs with their
settings and results in a table (HPARAMS).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmaml.core.errors import RunDirectoryError
from fedmaml.core.extras import imported
from fedmaml.exporting.records import Recorded

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_PATTERN = "events.out.tfevents.*"


def to_tensorboard(run: Recorded, folder: Path, *, force: bool = False) -> int:
    """Write a run's event files.

    Args:
        run: What to write.
        folder: Of this run alone.
        force: Replace the event files that ``folder`` holds.

    Returns:
        The number of points written.

    Raises:
        ConfigurationError: If TensorBoard is not installed.
        RunDirectoryError: If ``folder`` holds event files, and not ``force``.
    """
    imported("tensorboard", "tensorboard", "the export")
    from torch.utils.tensorboard import SummaryWriter

    existing = sorted(folder.glob(_PATTERN))
    if existing and not force:
        raise RunDirectoryError(
            f"{folder} holds TensorBoard event files already, and more of them would double every "
            "point: choose another folder with --out, or replace them with --force"
        )
    for path in existing:
        path.unlink()
    count, values, last, final = 0, dict[str, float](), run.started, dict[str, float]()
    with SummaryWriter(str(folder)) as writer:
        for point in run.points:
            for name, value in point.values.items():
                writer.add_scalar(name, value, point.round, point.seconds, double_precision=True)
            count, last = count + 1, point.seconds
            values |= point.values
            if run.poll:
                writer.flush()
        final = {name: value for name, value in values.items() if name.startswith("test/")}
        _add_table_row(writer, run, final, last)
    return count


def _add_table_row(
    writer: "SummaryWriter", run: Recorded, final: dict[str, float], seconds: float
) -> None:
    """Add what the table of runs shows."""
    from torch.utils.tensorboard.summary import hparams

    settings: dict[str, Any] = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in run.settings.items()
    }
    files: Any = writer.file_writer
    for summary in hparams(settings, final):  # type: ignore[no-untyped-call]
        files.add_summary(summary, walltime=seconds)
