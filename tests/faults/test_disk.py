"""What is on disk: states cut at any byte, folders that cannot be written, code and canaries."""

import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Message

from fedmaml.config import resolve
from fedmaml.core.errors import FedmamlError, RunDirectoryError
from fedmaml.running import execute
from fedmaml.runs.chain import NEWEST, PREVIOUS
from fedmaml.runs.directory import RunDirectory
from tests.commands import fedmaml
from tests.killed import Forge, outcome
from tests.server.test_bad_replies import run
from tests.tables import write_sites

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")]

CASE = {
    "scenario": "digits", "strategy": "fedrep", "rounds": 3, "clients": 3, "task.test_clients": 3,
    "task.train_clients": 6, "task.validation_clients": 0, "compression.method": "top-k",
}  # fmt: skip


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    made = Forge()
    yield made
    made.close()


def test_a_run_killed_after_any_byte_of_a_state_goes_on_from_the_one_before(
    forge: Forge, tmp_path: Path
) -> None:
    """Twenty cuts of the state of round 2, from its first byte to almost its last."""
    assert forge.run(CASE, tmp_path / "whole") == 0
    expected = outcome(tmp_path / "whole")
    size = (tmp_path / "whole" / NEWEST).stat().st_size
    for cut in range(20):
        out = tmp_path / f"cut{cut}"
        offset = cut * (size - 100) // 19
        assert forge.run(CASE, out, phase="commit", at=2, bytes=offset) == -9
        (unfinished,) = out.glob(".*.tmp")
        assert unfinished.stat().st_size == offset
        state = RunDirectory(out).newest_state().state
        assert state is not None
        assert state.round == 1
        assert forge.run(CASE, out, resume=True) == 0
        assert outcome(out) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_when_it_is_read_only(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(RunDirectoryError, match=f"cannot write to {closed / 'x'}.*--out"):
        execute(resolve(CASE), closed / "x")


def test_a_folder_that_cannot_be_written_is_refused_before_round_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/fedmaml")):
        with pytest.raises(RunDirectoryError, match=re.escape(f"cannot write to {out}")):
            execute(resolve(CASE), out)
    assert (tmp_path / "file").read_text() == "mine"


class _Canary:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    """In the bytes of an array of a reply, in both states of a run, and in its theta."""
    canary = tmp_path / "canary"
    code = pickle.dumps(_Canary(canary))
    objects = np.array([_Canary(canary)], dtype=object)
    header = b"\x93NUMPY\x01\x00v\x00" + repr(
        {"descr": "|O", "fortran_order": False, "shape": (1, 2410)}
    ).encode().ljust(117) + b"\n"  # fmt: skip

    def tamper(_message: Message, reply: Message) -> Message:
        reply.content.array_records["update"]["theta"].data = header + code
        return reply

    assert run(tmp_path / "run", tamper)["rejected"] == 1
    with pytest.raises(ValueError, match="bject"):
        Array(objects).numpy()
    for name in (NEWEST, PREVIOUS, "theta.safetensors"):
        (tmp_path / "run" / name).write_bytes(code)
    (tmp_path / "run" / "summary.json").unlink()
    for read in (RunDirectory.newest_state, RunDirectory.load_meta):
        with pytest.raises(FedmamlError):
            read(RunDirectory(tmp_path / "run"))
    assert not canary.exists()


def test_a_canary_in_the_data_of_a_site_leaves_no_trace(tmp_path: Path) -> None:
    """A number and a word of one client's table, which no file and no line of a run may show."""
    sites = write_sites(tmp_path / "sites")
    table = sorted(sites.glob("*.csv"))[0]
    lines = table.read_text().splitlines()
    cells = lines[1].split(",")
    cells[0] = "0.73130918277"
    table.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    data = ["--data", f"{sites}/*.csv", "--target", "y"]
    arguments = ["run", "csv", *data, "--strategy", "fomaml", "--rounds", "2"]
    done = fedmaml(*arguments, "--out", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines[2] = "canary-of-a-patient" + lines[2][lines[2].index(",") :]
    table.write_text("\n".join(lines) + "\n")
    failed = fedmaml(*arguments, "--out", "y", cwd=tmp_path)
    assert failed.returncode == 1
    written = [p for name in "xy" for p in (tmp_path / name).rglob("*") if p.is_file()]
    assert len(written) > 5
    said = done.stdout + done.stderr + failed.stdout + failed.stderr
    left = b"".join([*(path.read_bytes() for path in written), said.encode()])
    assert b"0.7313091" not in left
    assert b"canary-of-a-patient" not in left
