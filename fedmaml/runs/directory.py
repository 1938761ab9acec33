"""A run on disk. Files are replaced whole; rounds.jsonl grows line by line.

config.toml         everything needed to repeat the run
audit.json          findings of the leakage audit before the run
left_out.json       clients whose data do not suit the scenario, by reason; see `left_out`
schema.json         how rows of a table become inputs; only of scenarios of tables
references.json     metrics of the scenario's references at each test client
rounds.jsonl        one line per finished round, written as it finishes; see `chain`
journal.safetensors everything needed to continue after the round that it names, written at most
                    once a second, and at the end of training; see `journal` and `state`
journal.previous... the one before it, which is used if the newest is damaged
theta.safetensors   the evaluated meta-parameters ("theta/<name>", "alpha/<name>"); names their
                    round (`evaluated_round`) and their SHA-256
memories/           of clients that keep one, on Flower's back ends only; see `client.slots`
clients.jsonl       one line per test client (validation client, with evaluation.split =
                    "validation"): its metrics before and after adaptation
summary.json        written last, so a run with one is complete; names the format
                    of all files and the version of fedmaml that wrote them
error.txt           why a run failed, if it did
.command.lock       empty, as .server.lock; who writes to the folder holds them, see `holding`

Only their owner may read them.

On disk, for d numbers of meta-parameters of b bytes: theta.safetensors d b bytes, and about 100 for
each tensor; a journal those once more, with Adam or Yogi twice more, with momentum once more, with
an earlier best round once more, and the memories of the clients. There are two journals; Flower's
back ends have two memories of each client instead. rounds.jsonl grows by 1 kB a round,
clients.jsonl by 100 bytes a client and number.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from fedmaml.config import RunConfig
from fedmaml.core.errors import FedmamlError, RunDirectoryError, described
from fedmaml.core.exit_codes import FAILED, exit_code_of
from fedmaml.core.findings import Audit
from fedmaml.runs.chain import NEWEST, PREVIOUS
from fedmaml.runs.holding import (
    ENDING_SECONDS,
    command_lives,
    held,
    is_held_by,
    refuse_if_held,
    same_folder,
)
from fedmaml.runs.records import FORMAT, RunRecords
from fedmaml.runs.writing import cannot_write, how_to_resume, write_whole

if TYPE_CHECKING:  # a directory is read without PyTorch, except for its tensors
    from fedmaml.core.params import MetaParams
    from fedmaml.runs.journal import Found, Journal
    from fedmaml.simulations.datasets.rows import Rows

TOKEN = "holder"
"""Key of a run config: the token of the command that entered the run directory; none: none did."""

RUNS = "FEDMAML_RUNS"
"""Environment variable of a server: the folder in which `flwr run` may write."""

_FILES = (
    "config.toml",
    "audit.json",
    "left_out.json",
    "schema.json",
    "references.json",
    "rounds.jsonl",
    "theta.safetensors",
    NEWEST,
    PREVIOUS,
    "memories",
    "clients.jsonl",
    "summary.json",
    "error.txt",
)
_CURE = "choose another folder with --out, or overwrite it with --force"
_CURE_FLOWER = (
    "choose another one, e.g. flwr run . --run-config 'out=\"runs/other\"', or none: then a "
    "new one is made"
)


class RunDirectory(RunRecords):
    """A folder that holds one run: its records, and what writes them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._checks: list[Callable[[], None]] = []

    @contextmanager
    def entered(self) -> Iterator[str]:
        """Make the folder, and lock it against other commands and their servers.

        The lock is held from the creation of the folder to the end of the run, so no other command
        can begin in between.

        Yields:
            A token that identifies the command to its ServerApp.

        Raises:
            RunDirectoryError: If another command or its server is writing there, or it cannot be
                written to.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                token = stack.enter_context(held(self.path, "command"))
                # In this order: a server that starts from now on sees the holder of the folder.
                refuse_if_held(self.path, "server", ENDING_SECONDS)
                self._checks = [same_folder(self.path, "command")]
            except OSError as error:
                raise self._cannot_write(error) from error
            yield token

    @contextmanager
    def served(self, config: RunConfig, token: str) -> Iterator[None]:
        """Let the ServerApp write, started by the command of this token or by none ("").

        Without a command, by `flwr run` alone, the folder is entered and made first.

        Raises:
            RunDirectoryError: If another server or command writes there, or it holds a run.
        """
        with ExitStack() as stack:
            if not token:
                token = stack.enter_context(self.entered())
                refuse_outside(self.path)
                self._create(config, self._made_by(config), _CURE_FLOWER)
            self._refuse_unless_of(token)  # before anything is written there
            stack.enter_context(held(self.path, "server"))
            self._refuse_unless_of(token)
            self._checks = [same_folder(self.path, "server"), command_lives(self.path)]
            yield

    def _refuse_unless_of(self, token: str) -> None:
        if not is_held_by(self.path, "command", token):
            raise RunDirectoryError(
                f"the command that started this server no longer holds {self.path}; run it again"
            )

    def _made_by(self, config: RunConfig) -> Collection[str]:
        """Return "config.toml" if it is this configuration: Flower may start a server twice."""
        path, same = self.path / "config.toml", tomli_w.dumps(config.to_table()).encode()
        return ("config.toml",) if path.exists() and path.read_bytes() == same else ()

    def _check(self) -> None:
        """Make sure that the folder is still that of this run, and its command lives."""
        for check in self._checks:
            check()

    def create(self, config: RunConfig, force: bool = False) -> None:
        """Write the configuration to a folder that was entered; begin a run.

        Raises:
            RunDirectoryError: If it holds a run already (and not ``force``), or cannot be written.
        """
        self._create(config, _FILES if force else (), _CURE)

    def _create(self, config: RunConfig, replaceable: Collection[str], cure: str) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            existing = [name for name in _FILES if (self.path / name).exists()]
            if not set(existing) <= set(replaceable):
                raise RunDirectoryError(
                    f"{self.path} holds a run already ({', '.join(existing)}): {cure}"
                )
            for name in existing:
                _remove(self.path / name)
            self._write("config.toml", tomli_w.dumps(config.to_table()).encode())
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> RunDirectoryError:
        reason = error.strerror or str(error)
        return RunDirectoryError(
            f"cannot write to {self.path}: {reason}; choose another folder with --out"
        )

    def save_meta(self, meta: "MetaParams", round: int) -> None:
        """Write the meta-parameters of a round."""
        from fedmaml.runs.state import meta_to_bytes

        self._write("theta.safetensors", meta_to_bytes(meta, round))

    @contextmanager
    def journal(self) -> Iterator["Journal"]:
        """Open the journal of the run, to write to it."""
        from fedmaml.runs.journal import Journal

        found, anchor = self.newest_state(), self.anchor()
        writer = Journal(self.path, anchor, self._check)
        writer.go_on(found)
        try:
            yield writer
        finally:
            writer.close()

    def reopen(self) -> "Found":
        """Prepare the folder of a run that was cut short, which was entered, to be continued.

        Raises:
            RunDirectoryError: If none of its states can be used.
        """
        from fedmaml.runs import journal

        found = self.newest_state()
        try:
            journal.cut_back(self.path, found)
            (self.path / "error.txt").unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error
        return found

    def save_clients(self, rows: list[dict[str, Any]]) -> None:
        """Write one line per test client."""
        self._write("clients.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def save_audit(self, audit: Audit) -> None:
        """Write the findings from before the run."""
        self._write("audit.json", (json.dumps(audit.to_json(), indent=2) + "\n").encode())

    def save_rows(self, rows: "Rows | None") -> None:
        """Write how rows become inputs; nothing if examples are no rows of tables."""
        if rows is not None:
            self._write("schema.json", (json.dumps(rows.to_json(), indent=2) + "\n").encode())

    def save_left_out(self, left_out: Mapping[str, Any]) -> None:
        """Write whom the scenario left out; nothing if nobody."""
        if left_out:
            self._write("left_out.json", (json.dumps(left_out, indent=2) + "\n").encode())

    def save_references(self, references: Sequence[Mapping[str, Any]]) -> None:
        """Write the results of references; nothing if the scenario names none."""
        if references:
            self._write("references.json", (json.dumps(list(references)) + "\n").encode())

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary; the run is complete."""
        named = {"format": FORMAT, **summary}
        self._write("summary.json", (json.dumps(named, indent=2) + "\n").encode())

    def fail(self, error: Exception) -> None:
        """Write why the run failed."""
        # The folder may be what failed; the error itself goes on.
        with suppress(OSError, RunDirectoryError):
            why = str(error) if isinstance(error, FedmamlError) else described(error)
            if exit_code_of(error) != FAILED:  # the command is another process under Flower
                why = f"{type(error).__name__}: {why}"
            self._write("error.txt", f"{why}\n".encode())

    def _write(self, name: str, data: bytes) -> None:
        self._check()
        try:
            write_whole(self.path / name, data, private=True)
        except OSError as error:
            raise cannot_write(
                self.path / name, len(data), error, how_to_resume(self.path)
            ) from error


def named_by(out: str) -> Path:
    """Return the folder that ``out`` in a run config names.

    A name without any folder is one in the folder that the operator of the server chose (`RUNS`):
    so a run config can travel to sites, which refuse one that names paths.
    """
    path = Path(out)
    return Path(os.environ.get(RUNS) or "runs") / path if path.name == out else path


def refuse_outside(path: Path) -> None:
    """Refuse a folder that a run config names and the operator of the server has not allowed.

    Whoever may submit a run to a server could otherwise write anywhere as its user.

    Raises:
        RunDirectoryError: If it is not in the folder that the environment variable `RUNS` names,
            by default ``runs`` in the working directory of the server.
    """
    root = Path(os.environ.get(RUNS) or "runs").resolve()
    if not path.resolve().is_relative_to(root):
        raise RunDirectoryError(
            f"a run config may name folders in {root} only, not {path}; the operator of the server "
            f"sets another one with the environment variable {RUNS}"
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def new_directory(config: RunConfig) -> Path:
    """Make the first new folder of runs/<scenario>-<strategy>-seed<seed>, ...-2, ...-3.

    Raises:
        RunDirectoryError: If it cannot be made.
    """
    base = Path("runs") / f"{config.scenario}-{config.strategy}-seed{config.seed}"
    try:
        base.parent.mkdir(exist_ok=True)
        for number in count(1):
            path = base if number == 1 else base.with_name(f"{base.name}-{number}")
            with suppress(FileExistsError):  # two commands at the same time get two folders
                path.mkdir()
                return path
    except OSError as error:
        raise RunDirectoryError(
            f"cannot make a folder in {base.parent.absolute()}: {error.strerror}; choose another "
            "place with --out"
        ) from error
    raise AssertionError("count has no end")
