"""One command at a time writes to a folder; real processes, started at the same time or killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.config import resolve, to_run_config
from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.directory import TOKEN, RunDirectory, new_directory
from fedmaml.runs.holding import command_lives, held, refuse_if_held
from fedmaml.server.app import app as server_app
from fedmaml.simulations.backends.in_process import InProcessGrid
from tests.commands import COMMAND, fedmaml

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
SMALL = ["--rounds", "3", "--set", "task.test_clients=4", "--json"]
FLOWER = [
    pytest.param(name, marks=[pytest.mark.flower, pytest.mark.timeout(300)])
    for name in ("flower-simulation", "flower-deployment")
]

Popen = subprocess.Popen[str]


def started(*arguments: str, cwd: Path) -> Popen:
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(there: Callable[[], object], popen: Popen) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert popen.poll() is None, popen.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def exactly_one_has_run(out: Path, both: Sequence[Popen], rounds: int) -> None:
    """Assert that one of two commands has run, undisturbed, and that the other names it."""
    said = [popen.communicate(timeout=120) for popen in both]
    assert sorted(popen.returncode for popen in both) == [0, 1], said
    winner = [popen.returncode for popen in both].index(0)
    summary = json.loads(said[winner][0])
    errors = said[1 - winner][1]
    assert RunDirectory(out).summary() == summary
    assert RunDirectory(out).config_table()["seed"] == summary["seed"]
    records = RunDirectory(out).rounds()
    assert [record["round"] for record in records] == list(range(1, rounds + 1))
    assert "Traceback" not in errors
    known = "holds a run already", f"is writing to {out}: process {both[winner].pid}; wait for it"
    assert any(words in errors for words in known), errors
    assert "choose another folder with --out" in errors


def test_of_two_commands_at_the_same_time_one_runs_and_is_named(tmp_path: Path) -> None:
    arguments = ["run", "digits", *SMALL, "--strategy", "fomaml", "--out", str(tmp_path / "x")]
    both = [started(*arguments, "--seed", str(seed), cwd=tmp_path) for seed in (1, 2)]
    exactly_one_has_run(tmp_path / "x", both, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["in-process", *FLOWER])
def test_of_many_pairs_of_commands_always_one_runs(backend: str, tmp_path: Path) -> None:
    for trial in range(20 if backend == "in-process" else 2):
        out = tmp_path / str(trial)
        arguments = ["run", "digits", *SMALL, "--strategy", "fomaml", "--out", str(out)]
        arguments += ["--backend", backend, "--nodes", "2"]
        both = [started(*arguments, "--seed", str(seed), cwd=tmp_path) for seed in (1, 2)]
        exactly_one_has_run(out, both, 3)


CONTENDER = """
import os, sys, time
from pathlib import Path
from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.directory import RunDirectory
folder, me, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
entered = refused = 0
while entered < times:
    try:
        with RunDirectory(folder).entered():
            (folder / "inside").open("x").write(me)  # fails if another is inside
            time.sleep(0.001)
            assert (folder / "inside").read_text() == me
            (folder / "inside").unlink()
            entered += 1
    except RunDirectoryError as error:
        assert "is writing to" in str(error) or "still writes to" in str(error), error
        refused += 1
    time.sleep(0.0005)
print(refused)
"""


def test_processes_that_contend_are_never_inside_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "folder")]
    both = [
        subprocess.Popen([*command, name, "50"], env=ENVIRONMENT, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in "ab"
    ]  # fmt: skip
    for popen in both:
        assert popen.stdout is not None
        assert popen.stdout.readline() == "ready\n"
    for popen in both:
        assert popen.stdin is not None
        popen.stdin.write("go\n")
        popen.stdin.flush()
    said = [popen.communicate(timeout=60) for popen in both]
    assert [popen.returncode for popen in both] == [0, 0], said
    assert sum(int(out) for out, _ in said) > 0  # they did meet


HOLDER = """
import sys, time
from pathlib import Path
from fedmaml.runs.holding import command_lives, held, refuse_if_held
with held(Path(sys.argv[1]), "command"):
    print("inside", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        assert popen.stdout.readline() == "inside\n"
        refused = fedmaml("compare", "digits", "--strategies", "fomaml", "--out", ".", cwd=tmp_path)
        assert (
            f"process {popen.pid}; wait for it, end it (kill {popen.pid}), or choose another"
            in (" ".join(refused.stderr.split()))
        )
        popen.send_signal(signal.SIGKILL)
    assert (tmp_path / ".command.json").exists()  # it could not tidy up
    with held(tmp_path, "command"):
        assert json.loads((tmp_path / ".command.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".command.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_can_be_run_again_at_once(tmp_path: Path) -> None:
    arguments = ["run", "sinusoid", "--out", "x"]
    popen = started(*arguments, "--rounds", "100000", "--json", cwd=tmp_path)
    wait_for((tmp_path / "x" / "theta.safetensors").exists, popen)
    meanwhile = fedmaml(*arguments, "--force", cwd=tmp_path)
    assert meanwhile.returncode == 1
    assert f"process {popen.pid}; wait for it, end it (kill {popen.pid})" in meanwhile.stderr
    popen.send_signal(signal.SIGKILL)
    popen.communicate()
    again = fedmaml(*arguments, "--rounds", "1", "--force", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(RunDirectory(tmp_path / "x").rounds()) == 1


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_a_killed_command_takes_all_processes_along_and_its_run_goes_on(tmp_path: Path) -> None:
    arguments = ["run", "digits", "--strategy", "fomaml", "--out", "x"]
    flower = ["--backend", "flower-deployment", "--rounds", "1000000"]
    popen = started(*arguments, *flower, cwd=tmp_path)
    wait_for((tmp_path / "x" / "rounds.jsonl").exists, popen)
    server = json.loads((tmp_path / "x" / ".server.json").read_text())["pid"]
    (mark,) = [
        entry for entry in Path(f"/proc/{server}/environ").read_bytes().split(b"\0")
        if entry.startswith(b"FEDMAML_WORKSPACE=")
    ]  # fmt: skip
    popen.send_signal(signal.SIGKILL)
    popen.communicate()
    deadline = time.monotonic() + 60
    workspace = Path(mark.decode().partition("=")[2])
    while (carrying(mark) or workspace.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (carrying(mark), workspace.exists()) == ([], False)
    assert RunDirectory(tmp_path / "x").summary() is None
    state = RunDirectory(tmp_path / "x").newest_state().state
    assert (tmp_path / "x" / "error.txt").exists() or state is None or state.round > 0


def carrying(mark: bytes) -> list[int]:
    """Return the processes that carry a mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_server_whose_command_was_killed_writes_nothing_more(tmp_path: Path) -> None:
    """The note of the command names a process that has ended, on this machine."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as gone:
        gone.wait()
    with held(tmp_path, "command"):
        note = tmp_path / ".command.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | {"pid": gone.pid}))
        lives = command_lives(tmp_path)
    words = rf"process {gone.pid}\) was killed; go on with: fedmaml run --resume"
    with pytest.raises(RunDirectoryError, match=words):
        lives()


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_was_removed_or_made_anew_is_noticed(again: bool, tmp_path: Path) -> None:
    out = tmp_path / "x"

    def removing(message: Message, context: Context) -> Message:
        rounds = out / "rounds.jsonl"
        if rounds.exists() and message.metadata.message_type == "train":
            shutil.rmtree(out)
            if again:
                RunDirectory(out).create(resolve({"scenario": "quadratic"}))
        return client_app(message=message, context=context)

    with pytest.raises(RunDirectoryError, match="x was removed or replaced while a run was"):
        serve(out, client=removing, rounds=3)
    left = sorted(path.name for path in out.iterdir()) if again else []
    assert left == (["config.toml"] if again else [])
    assert out.exists() == again


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_files_of_a_run_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        fedmaml("run", "digits", *SMALL, "--strategy", "fomaml", "--out", "x", cwd=tmp_path)
        with RunDirectory(tmp_path / "x").entered():
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "x").iterdir()}
    finally:
        os.umask(before)
    assert {".command.json", "rounds.jsonl", "journal.safetensors", "summary.json"} <= set(modes)
    assert modes == dict.fromkeys(modes, 0o600)


def serve(out: Path, token: str = "", client: Any = client_app, **settings: int) -> None:
    config = resolve({"scenario": "quadratic", "strategy": "maml", "rounds": 1}, settings)
    run_config = to_run_config(config, out) | ({TOKEN: token} if token else {})
    run_config["out"] = str(out) if out != Path() else ""
    grid = InProcessGrid(client, 1, run_config)
    server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))


def test_a_server_without_a_command_begins_a_run_and_never_adds_to_one(tmp_path: Path) -> None:
    serve(tmp_path / "x")
    before = (tmp_path / "x" / "rounds.jsonl").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"holds a run already.*flwr run \. --run-config"):
        serve(tmp_path / "x", rounds=2)
    words = f"is writing to .*process {os.getpid()}"
    with RunDirectory(tmp_path / "x").entered(), pytest.raises(RunDirectoryError, match=words):
        serve(tmp_path / "x", rounds=2)
    assert (tmp_path / "x" / "rounds.jsonl").read_bytes() == before
    assert not (tmp_path / "x" / "error.txt").exists()


def test_a_server_without_a_command_and_a_folder_makes_a_new_one_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quadratic-maml-seed0", "quadratic-maml-seed0-2"):
        serve(Path())
        assert capsys.readouterr().out == f"writing to {tmp_path / 'runs' / name}\n"
        assert RunDirectory(tmp_path / "runs" / name).summary() is not None


def test_a_server_of_a_command_that_is_gone_writes_nothing(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "x").entered() as token:
        pass
    words = "no longer holds"
    with RunDirectory(tmp_path / "x").entered(), pytest.raises(RunDirectoryError, match=words):
        serve(tmp_path / "x", token)
    with pytest.raises(RunDirectoryError, match=words):
        serve(tmp_path / "x", token)
    assert {path.name for path in (tmp_path / "x").iterdir()} == {".command.lock", ".server.lock"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('{"pid": 7, "host": "elsewhere"}', "process 7 on elsewhere; wait for it, end it, or cho"),
        ("", "a process; wait for it, end it, or choose"),  # it has not said it yet
        ("[7]", "a process; wait for it, end it, or choose"),
    ],
)
def test_a_holder_is_named_as_well_as_it_is_known(said: str, message: str, tmp_path: Path) -> None:
    with held(tmp_path, "server"):
        (tmp_path / ".server.json").write_text(said)
        with pytest.raises(RunDirectoryError, match=message):
            refuse_if_held(tmp_path, "server")


def test_commands_without_out_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve({"scenario": "quadratic"})
    names = [new_directory(config).name for _ in range(3)]
    assert names == [f"quadratic-maml-seed0{end}" for end in ("", "-2", "-3")]
    monkeypatch.chdir(tmp_path / "runs")
    Path("runs").write_text("a file")
    with pytest.raises(RunDirectoryError, match=r"cannot make a folder in .*--out"):
        new_directory(config)


@pytest.mark.slow
def test_a_comparison_keeps_others_out_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    arguments = ["compare", "digits", "--strategies", "fomaml", "--seeds", "1", "--out", "c",
                 "--set", "task.test_clients=4", "--json"]  # fmt: skip
    popen = started(*arguments, "--rounds", "100000", cwd=tmp_path)
    wait_for((tmp_path / "c" / "local").exists, popen)
    refused = fedmaml(*arguments, "--rounds", "100000", cwd=tmp_path)
    assert f"is writing to c: process {popen.pid}; wait for it" in refused.stderr
    popen.send_signal(signal.SIGKILL)
    popen.communicate()
    assert fedmaml(*arguments, "--rounds", "1", "--force", cwd=tmp_path).returncode == 0
