"""A federation by the documented commands alone: TLS, node keys, one data file at each site."""

import json
import re
import shutil
import signal
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from fedmaml.config import resolve
from fedmaml.provisioning.coordinator_file import host_and_port
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.backends.processes import free_ports
from fedmaml.simulations.datasets import heart_disease
from tests.provisioning.commands import Commands, kill, rounds_in, wait_for
from tests.provisioning.proxies import NGINX, nginx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deployment,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning"),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc"),
]

FIRST_ROUND_SECONDS = 600.0


def file_of(site: str, data: Path, folder: Path) -> Path:
    """Return a data folder that holds the file of one hospital, and no other."""
    name = f"processed.{site}.data"
    there = folder / "data" / site / heart_disease.FOLDER
    there.mkdir(parents=True)
    shutil.copy(data / heart_disease.FOLDER / name, there)
    return there.parent


def test_from_nothing_to_the_first_round(tmp_path: Path) -> None:
    """With nginx before the SuperLink, where there is one."""
    began = time.monotonic()
    with ExitStack() as stack:
        (outer,) = free_ports(1)
        outside = f"localhost:{outer}" if NGINX else ""
        federation = Commands(tmp_path, stack, ("north", "south", "west"), outside)
        federation.set_up()
        federation.do("coordinator", "files", "fed", "--out", "files")
        if NGINX:
            stack.enter_context(nginx(tmp_path / "files" / "nginx.conf", outer, tmp_path / "nginx"))
        for site in federation.sites:
            federation.start(site, "site", "run", site)
        federation.start("run", "coordinator", "run", "fed", "sinusoid", "--strategy", "fomaml",
                         "--rounds", "2", "--out", "runs/first")  # fmt: skip
        wait_for(lambda: rounds_in(tmp_path / "runs" / "first") >= 1, "the first round")
        assert time.monotonic() - began < FIRST_ROUND_SECONDS
        status = json.loads(federation.do("coordinator", "status", "fed", "--json"))
        assert {site["name"] for site in status["sites"]} == set(federation.sites)
        assert all(not site["reason"] for site in status["sites"])
        for site in federation.sites:
            federation.do("site", "doctor", site)  # ends with 1 if something is wrong
        refuses_what_is_not_safe(federation.listen, tmp_path / "fed" / "ca.crt")
        if NGINX:
            calls = (tmp_path / "nginx" / "access.log").read_text()
            assert "/v1/fleet/push-object" in calls
            assert "/v1/control" not in calls


def refuses_what_is_not_safe(address: str, authority: Path) -> None:
    """Check that a SuperLink itself takes neither plain text nor TLS below 1.2."""
    host, port = host_and_port(address)
    with socket.create_connection((host, port), timeout=5) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with suppress(ConnectionError):
            assert not plain.recv(4096).startswith(b"HTTP/1.1 200")
    context = ssl.create_default_context(cafile=authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((host, port), timeout=5) as old,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(old, server_hostname="localhost")


def test_hospitals_end_in_the_same_bits_though_everybody_is_killed_once(
    tmp_path: Path, data_dir: Path
) -> None:
    settings = {
        "scenario": "hospitals", "strategy": "fomaml", "rounds": 5, "quorum": 4,
        "data_dir": str(data_dir),
    }  # fmt: skip
    here = execute(resolve(settings), tmp_path / "here")
    command = ("coordinator", "run", "fed", "hospitals", "--strategy", "fomaml", "--rounds", "5",
               "--set", "quorum=4", "--out", "runs/first")  # fmt: skip
    run = tmp_path / "runs" / "first"
    with ExitStack() as stack:
        federation = Commands(tmp_path, stack, heart_disease.HOSPITALS)
        federation.set_up(lambda site: file_of(site, data_dir, tmp_path))
        for site in federation.sites:
            federation.start(site, "site", "run", site)
        coordinator = federation.start("run", *command)
        wait_for(lambda: rounds_in(run) >= 1, "round 1")
        kill("fedmaml.sites.worker", "/cleveland/site.toml")
        wait_for(lambda: rounds_in(run) >= 2, "round 2")
        kill("flower-supernode", "/hungarian/site.toml")
        wait_for(lambda: rounds_in(run) >= 3, "round 3")
        coordinator.send_signal(signal.SIGKILL)
        coordinator.wait()
        again = federation.start("again", *command)
        assert again.wait() == 0, federation.log("again")
        federation.do("coordinator", "verify", "runs/first")
        assert federation.do(*command, "--json")  # the run is complete: shown, not repeated
    summary = RunDirectory(run).summary()
    assert summary is not None
    assert summary["theta_sha256"] == here["theta_sha256"]
    assert summary["resumed_after"][0] >= 2
    assert "worker" in federation.log("cleveland")
    assert "supernode ended (signal 9)" in federation.log("hungarian")


def test_keys_that_are_not_registered_or_revoked_get_no_payload(tmp_path: Path) -> None:
    with ExitStack() as stack:
        federation = Commands(tmp_path, stack, ("good", "gone", "never"))
        federation.set_up(unapproved=("never",))
        federation.do("site", "revoke", "fed", "gone")
        for site in federation.sites:
            federation.start(site, "site", "run", site)
        run = federation.start("run", "coordinator", "run", "fed", "sinusoid", "--strategy",
                               "fomaml", "--rounds", "3", "--wait-for", "1")  # fmt: skip
        assert run.wait() == 0, federation.log("run")
        for site in ("gone", "never"):
            wait_for(lambda site=site: "does not take it" in federation.log(site), site, 30.0)
        assert "does not take it" not in federation.log("good").partition("waits")[0]
    joined = {
        event["node"]
        for record in RunDirectory(tmp_path / "runs" / "federation").rounds()
        for event in record.get("events", ())
    }
    assert joined == {"good"}
    refused = (tmp_path / "fed" / "superlink" / "superlink.log").read_text()
    assert re.search(r"activate-node|register", refused)
