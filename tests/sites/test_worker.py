"""A site's worker, reached through the site's app: the same bits, bounds, refusals, restarts."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from flwr.app import Context, Message, RecordDict

from fedmaml.config import resolve, to_run_config
from fedmaml.core.errors import BackendError, ConfigurationError, RefusedError
from fedmaml.flower_internals import become_server
from fedmaml.provisioning.roster import Roster, write_roster
from fedmaml.running import execute
from fedmaml.server.admission import APPROVED
from fedmaml.server.app import app as server_app
from fedmaml.sites import app as shim
from fedmaml.sites.answering import Answering
from fedmaml.sites.site_file import Data, read_site_file
from fedmaml.sites.starting import channel_to, made_private, started, worker_command
from fedmaml.sites.wire import CHUNK, METHOD, chunked, joined
from fedmaml.sites.worker import _served, _Service
from tests.sites.dying import DEATHS
from tests.sites.federation import SMALL, grid_of, new_key, new_site

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


ROOT = Path(__file__).parents[2]


@contextmanager
def serving(site_file: Path) -> Iterator[Answering]:
    """Serve a site in this process, as a worker does in its own."""
    site = read_site_file(site_file)
    made_private(site.folders.worker)
    answering = Answering(site)
    server = _served(site, _Service(site, answering))
    try:
        yield answering
    finally:
        server.stop(0).wait()


def run_at(site_files: list[Path], settings: dict[str, Any], out: str) -> None:
    run_config = to_run_config(resolve(settings), Path(out))
    grid = grid_of(site_files, run_config)
    context = Context(
        run_id=grid.run.run_id, node_id=1, node_config={}, state=RecordDict(), run_config=run_config
    )
    server_app(grid=grid, context=context)


def theta(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["theta_sha256"])


def asked(site_file: Path, run_config: dict[str, Any] | None = None) -> Message:
    """Return the site's reply to a roll call."""
    become_server(1)
    config = to_run_config(resolve(SMALL), Path("name")) if run_config is None else run_config
    message = Message(RecordDict(), 2, "query.roll_call")
    node_config: Any = {"site-file": str(site_file)}
    context = Context(
        run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config=config
    )
    return shim.passed_on(message, context)


def test_signed_sites_compute_the_same_bits_as_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memories, compression and three sites; the approved keys verify every reply."""
    execute(resolve(SMALL), tmp_path / "plain")
    files = [new_site(tmp_path / f"s{i}", i, 3, key=True) for i in range(3)]
    keys = {f"site-{i}": new_key(tmp_path / f"s{i}" / "node.key") for i in range(3)}
    write_roster(tmp_path, Roster(keys))
    monkeypatch.setenv(APPROVED, str(tmp_path / "approved.toml"))
    monkeypatch.setenv("FEDMAML_RUNS", str(tmp_path / "runs"))
    with serving(files[0]), serving(files[1]), serving(files[2]):
        run_at(files, SMALL, "at-sites")
    assert theta(tmp_path / "runs" / "at-sites") == theta(tmp_path / "plain")
    rounds = (tmp_path / "runs" / "at-sites" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["rejected"] for line in rounds] == [[], []]
    assert list((tmp_path / "s0" / "memories").rglob("*.safetensors"))


def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = new_site(tmp_path / "s")
    site = read_site_file(path)
    with serving(path):
        assert stat.S_IMODE(site.folders.worker.stat().st_mode) == 0o700
        site.folders.worker.chmod(0o755)
        with pytest.raises(ConfigurationError, match="chmod 700"):
            channel_to(site)
        assert asked(path).error.reason == "ConfigurationError in the site's app (its text and " \
            "place stay in the node's log)"  # fmt: skip


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"settings": 'data_dir = "/srv/patients"'}, "data_dir"),
        ({"settings": 'scenario_from = "evil.py"'}, "scenario_from"),
        ({"scenario": "csv", "settings": '[task]\ndata = "x.csv"'}, "task.data"),
        ({"settings": '[task]\nnote = "../../etc"'}, "task.note"),
        ({"out": "/home/somebody"}, "out"),
        ({"out": "../up"}, "out"),
    ],
)
def test_a_run_that_names_what_a_site_says_is_refused(
    tmp_path: Path, more: dict[str, Any], key: str
) -> None:
    path = new_site(tmp_path / "s")
    run_config: dict[str, Any] = {"scenario": "sinusoid", "strategy": "fomaml", "out": "name"}
    with serving(path):
        reason = asked(path, run_config | more).error.reason
    assert reason.startswith(f"the run configuration names {key}: which data, folders and code")
    assert "leave them out" in reason


def test_data_that_the_scenario_does_not_read_are_refused(tmp_path: Path) -> None:
    path = new_site(tmp_path / "s", data=Data(folder=tmp_path))
    with serving(path):
        reason = asked(path).error.reason
    assert "scenario 'sinusoid' reads no data_dir" in reason
    assert str(tmp_path) not in reason  # nothing of the site leaves it


def test_a_node_with_a_site_file_answers_by_its_worker_alone(tmp_path: Path) -> None:
    from fedmaml.client.app import app as whole_app

    become_server(1)
    context = Context(
        run_id=1, node_id=2, node_config={"site-file": "x"}, state=RecordDict(), run_config={}
    )
    reply = whole_app(message=Message(RecordDict(), 2, "query.roll_call"), context=context)
    assert "name fedmaml.sites.app:app as the clientapp" in reply.error.reason


def test_a_node_without_a_site_file_says_what_is_missing() -> None:
    become_server(1)
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    reply = shim.passed_on(Message(RecordDict(), 2, "query.roll_call"), context)
    assert "--node-config 'site-file=" in reply.error.reason


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 7])
def test_messages_travel_in_parts(size: int) -> None:
    body = os.urandom(size)
    parts = list(chunked({"run": 1}, body))
    assert all(len(part) <= CHUNK for part in parts)
    assert joined(parts, 4 * CHUNK) == ({"run": 1, "bytes": size}, body)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "no header"),
        ([b"[]"], "no header"),
        ([b'{"bytes": 11}', b"x"], "of 11 bytes, and this site takes and sends at most 10"),
        ([b'{"bytes": -1}'], "at most 10"),
        ([b'{"bytes": 2}', b"x", b"yz"], "more than the 2 bytes"),
        ([b'{"bytes": 2}', b"x"], "ends after 1"),
    ],
)
def test_other_bytes_than_announced_are_refused(parts: list[bytes], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        joined(parts, 10)


def test_a_worker_stops_reading_what_is_too_large(tmp_path: Path) -> None:
    path = new_site(tmp_path / "s")
    site = read_site_file(path)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield json.dumps({"bytes": 2**40}).encode()
        while sent < 2000:
            sent += 1
            yield bytes(CHUNK)

    with serving(path), channel_to(site) as channel:
        with pytest.raises(grpc.RpcError) as refusal:
            list(channel.stream_stream(METHOD)(endless(), timeout=30))
        assert refusal.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "at most 268435456" in refusal.value.details()
        assert sent < 1000


def test_another_version_of_the_app_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new_site(tmp_path / "s")
    monkeypatch.setattr(shim, "__version__", "9.9")
    with serving(path):
        assert "this site's app is fedmaml 9.9 and its worker" in asked(path).error.reason


def test_the_app_of_a_site_imports_neither_torch_nor_data() -> None:
    """Every message starts a process that imports it."""
    code = (
        "import sys, fedmaml.sites.app\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'scipy', 'fedmaml.client', 'fedmaml.config'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_a_worker_that_dies_while_it_answers_is_asked_again_once(
    tmp_path: Path, deaths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv(DEATHS, str(tmp_path / "deaths"))
    (tmp_path / "deaths").write_text(str(deaths))
    path = new_site(tmp_path / "s", data=Data(module="tests.sites.dying:load", target="ill"))
    settings = '[task]\nsites = 3\ntarget = "ill"\ncolumns = ["age"]\nclasses = ["0", "1"]'
    try:
        reply = asked(path, {"scenario": "csv", "strategy": "fomaml", "settings": settings})
        assert (tmp_path / "deaths").read_text() == "0"
        if deaths == 2:
            assert reply.error.reason.startswith("BackendError in the site's app")
            assert not workers(path)
        else:
            assert set(reply.content) == {"hosted", "reply", "statistics", "layout"}
            assert len(workers(path)) == 1
    finally:
        for each in workers(path):
            os.kill(each, signal.SIGKILL)


@pytest.mark.slow
def test_a_second_worker_waits_and_takes_over_and_a_signal_ends_it(tmp_path: Path) -> None:
    path = new_site(tmp_path / "s")
    site = read_site_file(path)
    started(path, site)
    (first,) = workers(path)
    with subprocess.Popen(worker_command(path), stderr=subprocess.DEVNULL) as second:
        try:
            while b"-m" not in Path(f"/proc/{second.pid}/cmdline").read_bytes():
                time.sleep(0.05)
            time.sleep(2.0)  # it waits for the lock, or it would have ended
            assert second.poll() is None
            os.kill(first, signal.SIGKILL)
            started(path, site)
            assert workers(path) == [second.pid]
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0
        finally:
            for each in workers(path):
                os.kill(each, signal.SIGKILL)
    assert not site.socket.exists()


@pytest.mark.slow
def test_a_worker_that_nobody_asks_ends(tmp_path: Path) -> None:
    path = new_site(tmp_path / "s")
    done = subprocess.run(worker_command(path, idle=0.5), timeout=60, capture_output=True)
    assert (done.returncode, b"nobody asked for 0.5 s" in done.stderr) == (0, True)


@pytest.mark.slow
def test_a_worker_that_cannot_serve_says_why(tmp_path: Path) -> None:
    path = new_site(tmp_path / "s", key=True)
    done = subprocess.run(worker_command(path), timeout=60, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: cannot read the node key" in done.stderr
    with pytest.raises(BackendError, match=r"exit code 1; .*worker.log says why"):
        started(path, read_site_file(path))


def workers(path: Path) -> list[int]:
    """Return the worker processes of a site that live."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"fedmaml.sites.worker" in words and str(path).encode() in words and state != "Z":
            found.append(int(entry.name))
    return found
