"""What a coordinator does now, in a file beside its own, so that others can watch it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmaml.core.errors import BackendError, ConfigurationError
from fedmaml.provisioning.coordinator_file import read_coordinator
from fedmaml.provisioning.superlink import Enrolment
from fedmaml.runs.writing import write_whole
from fedmaml.watching.snapshot import Federation

FILE = "status.json"


class Status:
    """Writes which run goes on, and who is connected, as long as that is known.

    Args:
        folder: Of the coordinator.
        run: Run directory.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        self._path, self._run = folder / FILE, run.absolute()
        self._online: list[str] = []

    def __enter__(self) -> "Status":
        """Name the run."""
        self._write(self._online)
        return self

    def __exit__(self, *_exception: object) -> None:
        """Leave the name of the run; who is connected is no longer known."""
        self._write(None)

    def connected(self, enrolment: Enrolment) -> list[str]:
        """Ask who is connected now, and write it; as before if the SuperLink is too busy."""
        try:
            self._online = enrolment.online()
        except BackendError:
            return self._online
        self._write(self._online)
        return self._online

    def _write(self, online: Sequence[str] | None) -> None:
        text = json.dumps({"run": str(self._run), "connected": online})
        write_whole(self._path, text.encode(), private=True)


def federation_of(folder: Path) -> Federation:
    """Return what a coordinator says of its sites."""
    online = _read(folder).get("connected")
    return Federation(read_coordinator(folder).sites, None if online is None else tuple(online))


def run_of(folder: Path) -> Path:
    """Return the run directory of a coordinator's newest run.

    Raises:
        ConfigurationError: If there is none yet, or the folder is no coordinator's.
    """
    read_coordinator(folder)
    if not (run := _read(folder).get("run")):
        raise ConfigurationError(
            f"{folder} has begun no run yet: fedmaml coordinator run {folder} SCENARIO"
        )
    return Path(str(run))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    return dict(json.loads(path.read_text())) if path.exists() else {}
