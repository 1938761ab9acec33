"""Flower's command lines, driven by us; what the two Flower back ends share.

    with workspace() as space
        start_superlink(space)      a SuperLink of our own
        write_app(...)              a thin Flower app: run configuration and two references, no code
        run_app(space, ...)         ``flwr run``, then wait until ``flwr ls`` reports its end

Nothing needs a network beyond loopback. While a run lasts its SuperLink takes commands, without
authentication, from every user of this machine: do not use these back ends where other users are
not trusted.
"""

import json
import logging
import os
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from fedmaml.simulations.backends import MEMORIES
from fedmaml.simulations.backends.apps import Apps
from fedmaml.simulations.backends.processes import (
    Child,
    Workspace,
    answers,
    executable,
    free_ports,
    wait_until,
)
from fedmaml.simulations.backends.slow_start import SlowStart

RunConfig = Mapping[str, str | int | float | bool]

CONNECTION = "fedmaml"  # name of the SuperLink in the Flower configuration of a workspace
_LOOPBACK = "127.0.0.1", "localhost", "::1"
POLL_SECONDS = 0.5
START_SECONDS = 60.0  # patience with one process; a loaded machine needs ten times the usual 2 s

logger = logging.getLogger("fedmaml")


def offline_environment(flwr_home: Path) -> dict[str, str]:
    """Return the environment of a Flower process that keeps to this machine.

    Args:
        flwr_home: Folder for what Flower stores: its configuration and installed apps.

    Returns:
        ``os.environ`` with this Python's scripts first on PATH (Flower starts its helpers by
        name), and without telemetry, update checks, run-time installation, usage reports, proxies
        for loopback and forced colours (which would spoil the JSON that ``flwr`` prints).
    """
    environment = {
        k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CLICOLOR_FORCE")
    }
    environment |= {
        "FLWR_HOME": str(flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }
    for name in ("NO_PROXY", "no_proxy"):  # Flower's client would send even loopback to a proxy
        hosts = [environment.get(name, ""), *_LOOPBACK]
        environment[name] = ",".join(filter(None, hosts))
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.2")  # seconds; Flower's own: 1
    return environment


def environment_of(space: Workspace, home: str) -> dict[str, str]:
    """Return the environment of the processes that share the Flower home called ``home``."""
    return offline_environment(space.folder / "homes" / home)


def own_memories(run_config: RunConfig) -> dict[str, str]:
    """Return the variable that lets nodes keep memories in the run directory, for a resume."""
    out = str(run_config.get("out", ""))
    return {MEMORIES: str(Path(out).absolute() / "memories")} if out else {}


def write_app(folder: Path, apps: Apps, run_config: RunConfig) -> None:
    """Write a thin Flower app: one ``pyproject.toml`` that points to installed packages."""
    project = {"name": "fedmaml-run", "version": "1.0.0", "description": "", "license": ""}
    app = {
        "publisher": "fedmaml",
        "components": {"serverapp": apps.server, "clientapp": apps.client},
        "config": dict(run_config),
    }
    folder.mkdir(parents=True)
    text = tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def ask(space: Workspace, *arguments: str) -> dict[str, Any]:
    """Return the output of ``flwr <arguments> --format json``; costs about 0.7 s of CPU."""
    environment = environment_of(space, "operator")
    with suppress(ValueError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [executable("flwr", environment), *arguments, "--format", "json"],
            cwd=space.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_SECONDS,
            start_new_session=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    return {"success": False, "error-message": "no answer"}


def start_superlink(space: Workspace, *options: str, **variables: str) -> tuple[Child, str]:
    """Start a SuperLink of our own, wait until it answers, and point ``flwr`` to it.

    Args:
        space: Where it runs.
        options: Further options of ``flower-superlink``.
        variables: Further environment variables of its processes.

    Returns:
        The process and its address, ``host:port``.
    """
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    environment = environment_of(space, "operator")
    home = Path(environment["FLWR_HOME"])
    home.mkdir(parents=True)
    connection = {"address": address, "insecure": True}
    (home / "config.toml").write_text(
        tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    )
    command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    superlink = space.start("superlink", [*command, *options], environment | variables)
    wait_until(lambda: answers(port), [superlink], START_SECONDS, "the SuperLink to answer")
    return superlink, address


def run_app(
    space: Workspace,
    app: Path,
    superlink: Child,
    nodes: Sequence[Child] = (),
    federation: str = "",
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Submit a Flower app and block until its run has finished.

    ``flwr run --stream`` follows the run's log and ends with the run; only then is the status
    requested, since each request costs 0.7 s of CPU that the run itself can use.

    Args:
        space: Where it runs.
        app: Folder of the app.
        superlink: The SuperLink; the run fails at once if it dies.
        nodes: SuperNodes; the death of one is logged, and the run goes on.
        federation: Value of ``--federation-config``.
        meanwhile: Called every `POLL_SECONDS` or so; what it raises ends the run.

    Raises:
        BackendError: The run was not accepted, failed, was stopped, or did not start in time.
    """
    command = ["flwr", "run", str(app), CONNECTION, "--stream"]
    command += ["--federation-config", federation] if federation else []
    stream = space.start("run", command, environment_of(space, "operator"))
    mourned: set[str] = set()
    slow_start = SlowStart(space.members)
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                stream.popen.wait(POLL_SECONDS)
            if superlink.ended():
                raise superlink.failure("the SuperLink died during the run", "Run it again.")
            meanwhile()
            slow_start.look()
            for node in nodes:
                if node.ended() and node.name not in mourned:
                    mourned.add(node.name)
                    logger.warning("%s died; the run goes on. Log: %s", node.name, node.log)
            if stream.ended() and _finished(space, stream):
                return
    except (KeyboardInterrupt, SystemExit):
        stop_runs(space)
        raise


def stop_runs(space: Workspace) -> None:
    """Stop the runs that a SuperLink takes to be going on."""
    for run in ask(space, "ls", CONNECTION).get("runs", []):
        if not run["status"].startswith("finished"):
            ask(space, "stop", run["run-id"], CONNECTION)


def _finished(space: Workspace, stream: Child) -> bool:
    """Return whether the newest run of a SuperLink has completed; raise if it failed."""
    answer = ask(space, "ls", CONNECTION)
    if not answer["success"]:
        what = f"could not ask the SuperLink how the run ended: {answer.get('error-message')}"
        raise stream.failure(what, "Run it again when the machine is less busy.")
    if not answer["runs"]:
        what = f"Flower did not accept the run; `flwr run` exited with {stream.popen.returncode}"
        raise stream.failure(what, "Correct what the log names and run it again.")
    run = max(answer["runs"], key=lambda each: each["pending-at"])
    status: str = run["status"]
    if status.startswith("finished") and status != "finished:completed":
        raise stream.failure(
            f"the Flower run ended as {status}: {run['status-details']}",
            "Correct what the log names and run it again; the in-process back end is the quickest "
            "place to look for an error in an app.",
        )
    return status.startswith("finished")
