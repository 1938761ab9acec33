"""The records of a run: the files of its folder, read and checked.

`directory` says what they are, and writes them.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmaml import __version__
from fedmaml.config import RunConfig, resolve
from fedmaml.core.errors import DataError, FedmamlError, OtherFormatError, RunDirectoryError
from fedmaml.core.exit_codes import error_named
from fedmaml.core.findings import Audit, audit_from_json
from fedmaml.runs.contents import (
    Client,
    Configuration,
    LeftOut,
    Reference,
    Round,
    Summary,
    wrong_in,
    wrong_in_text,
)
from fedmaml.runs.finding import why_no_run

if TYPE_CHECKING:  # records are read without PyTorch, except for tensors
    from fedmaml.core.params import MetaParams
    from fedmaml.runs.journal import Found
    from fedmaml.simulations.datasets.rows import Rows

FORMAT = 3
"""Format of a run's files; another number whenever a reader of this one would fail."""


class RunRecords:
    """What a folder says of its run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def failure(self) -> str:
        """Return why the run failed; "" if unknown."""
        return self._failure()[1]

    def error(self) -> FedmamlError | None:
        """Return the error that ended the run, if its class has an exit code; else None."""
        return error_named(*self._failure())

    def _failure(self) -> tuple[str, str]:
        """Return the name of the class of the error that ended the run, and its text."""
        path = self.path / "error.txt"
        text = path.read_text(errors="replace").strip() if path.exists() else ""
        name, separator, rest = text.partition(": ")
        return (name, rest) if separator and error_named(name, rest) else ("", text)

    def config_table(self) -> dict[str, Any]:
        """Return the configuration as nested plain values.

        Raises:
            RunDirectoryError: If there is none, or it is damaged.
        """
        path = self.path / "config.toml"
        if not self.path.is_dir() or not path.exists():
            raise RunDirectoryError(why_no_run(self.path))
        cure = (
            "put it back from a copy, or repeat the command that made it with --force, which runs "
            "it again"
        )
        try:
            table = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise RunDirectoryError(
                f"{path} is damaged ({error}), so the settings of the run are lost: {cure}"
            ) from error
        if wrong := wrong_in(Configuration, table):
            raise RunDirectoryError(f"{path} is not the configuration of a run ({wrong}): {cure}")
        return table

    def config(self, with_data: bool = True) -> RunConfig:
        """Return the configuration.

        Args:
            with_data: Whether to check that it suits the scenario's data, which are read.

        Raises:
            RunDirectoryError: If there is none, or it is damaged.
            ConfigurationError: If this version of fedmaml cannot run it.
        """
        return resolve(self.config_table(), with_data=with_data)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary; None if the run is not complete.

        Raises:
            RunDirectoryError: If it is damaged.
            OtherFormatError: If another version of fedmaml wrote it, in a format that is not read.
        """
        path = self.path / "summary.json"
        if not path.exists():
            return None
        try:
            text = path.read_text()
            summary = json.loads(text)
        except (ValueError, OSError) as error:
            raise self._damaged("summary.json", str(error)) from error
        if not isinstance(summary, dict) or not isinstance(summary.get("versions"), dict):
            raise self._damaged("summary.json", "not a run's summary")
        if (found := summary.get("format", "none")) != FORMAT:
            raise OtherFormatError(
                f"{path} was written by fedmaml {summary['versions'].get('fedmaml', '(unknown)')} "
                f"in format {found}, and this is fedmaml {__version__}, which reads format "
                f"{FORMAT}: use the version that wrote it, or {self.how_to_repeat()}"
            )
        if wrong := wrong_in_text(Summary, text):
            raise self._damaged("summary.json", wrong)
        return summary

    def rounds(self) -> list[dict[str, Any]]:
        """Return the finished rounds; a last line that was cut short is left out.

        Raises:
            RunDirectoryError: If a line is damaged.
        """
        return self._lines("rounds.jsonl", Round)

    def clients(self) -> list[dict[str, Any]]:
        """Return one row per client that was evaluated; errors as of `rounds`."""
        return self._lines("clients.jsonl", Client)

    def _lines(self, name: str, kind: type[Round | Client]) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.exists():
            return []
        records = []
        for number, line in enumerate(path.read_text(errors="replace").splitlines(True), 1):
            wrong = wrong_in_text(kind, line.strip())
            if wrong and not line.endswith("\n"):
                break  # cut short, or being written
            if wrong:
                raise self._damaged(f"line {number} of {name}", wrong)
            records.append(json.loads(line))
        return records

    def how_to_repeat(self) -> str:
        """Return "run it again: ", and the command that does."""
        return (
            f"run it again: fedmaml run --config {self.path / 'config.toml'} --out {self.path} "
            "--force"
        )

    def _damaged(self, what: str, why: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"{what} in {self.path} is damaged ({why}); {self.how_to_repeat()}"
        )

    def audit(self) -> Audit | None:
        """Return the findings from before the run; None without an audit.

        Raises:
            RunDirectoryError: If it is damaged.
        """
        path = self.path / "audit.json"
        if not path.exists():
            return None
        try:
            return audit_from_json(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise self._damaged(path.name, str(error)) from error

    def references(self) -> list[dict[str, Any]]:
        """Return the results of references, see `computing.references`; empty if there are none.

        Raises:
            RunDirectoryError: If the file is damaged.
        """
        references: list[dict[str, Any]] | None = self._json(
            "references.json", tuple[Reference, ...]
        )
        return references or []

    def left_out(self) -> dict[str, Any]:
        """Return whom the scenario left out, see `runs.left_out`; {} if nobody.

        Raises:
            RunDirectoryError: If the file is damaged.
        """
        left_out: dict[str, Any] | None = self._json("left_out.json", LeftOut)
        return left_out or {}

    def rows(self) -> "Rows | None":
        """Return how rows of a table become inputs; None if the run kept nothing of it.

        Raises:
            RunDirectoryError: If the file is damaged.
        """
        from fedmaml.simulations.datasets.rows import rows_from_json

        path = self.path / "schema.json"
        if not path.exists():
            return None
        try:
            return rows_from_json(json.loads(path.read_text()))
        except (ValueError, DataError, OSError) as error:
            raise self._damaged(path.name, str(error)) from error

    def _json(self, name: str, kind: Any) -> Any:
        """Return what a file holds that is of a kind of `contents`; None if there is no file."""
        path = self.path / name
        if not path.exists():
            return None
        text = path.read_text(errors="replace")
        if wrong := wrong_in_text(kind, text):
            raise self._damaged(name, wrong)
        return json.loads(text)

    def has_meta(self) -> bool:
        """Return whether there are meta-parameters."""
        return (self.path / "theta.safetensors").is_file()

    def load_meta(self) -> "MetaParams":
        """Read the meta-parameters.

        Raises:
            RunDirectoryError: If they are missing, damaged, or not those that were written.
        """
        from fedmaml.runs.state import read_meta

        try:
            return read_meta(self.path / "theta.safetensors")
        except ValueError as error:
            raise self._damaged("theta.safetensors", str(error)) from error

    def newest_state(self) -> "Found":
        """Return the newest sound state of the run.

        Raises:
            RunDirectoryError: If there are states and none can be used.
        """
        from fedmaml.runs import journal

        try:
            return journal.newest(self.path, self.anchor())
        except RunDirectoryError as error:
            raise RunDirectoryError(f"{error}; {self.how_to_repeat()}") from error

    def anchor(self) -> str:
        """Return the SHA-256 of the configuration, on which the chain of rounds hangs."""
        return hashlib.sha256((self.path / "config.toml").read_bytes()).hexdigest()
