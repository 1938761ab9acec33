"""`flwr run .` and `flwr build` in a clone of the repository, by Flower's own command line."""

import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from fedmaml.config import resolve
from fedmaml.core.params import sha256
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.simulations.backends.flower_processes import (
    CONNECTION,
    ask,
    environment_of,
    offline_environment,
    start_superlink,
)
from fedmaml.simulations.backends.processes import executable, workspace

ROOT = Path(__file__).resolve().parents[2]
IN_A_CLONE = ("fedmaml", "tests", "docs", "examples", "pyproject.toml", "README.md", "LICENSE")
PATIENCE = 400.0  # seconds; half a minute on a machine that does nothing else


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository elsewhere; its own copies of the two apps cannot run."""
    folder = tmp_path / "fedmaml-clone"
    folder.mkdir()
    for name in IN_A_CLONE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    for app in ("server", "client"):
        with (folder / "fedmaml" / app / "app.py").open("a") as file:
            file.write("\nraise RuntimeError('not the installed fedmaml')\n")
    return folder


def bundle(app: Path, folder: Path) -> dict[str, bytes]:
    """Return what `flwr build` packs, file by file."""
    environment = offline_environment(folder / "home")
    command = [executable("flwr", environment), "build", "--app", str(app)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (fab,) = folder.glob("*.fab")
    with zipfile.ZipFile(fab) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.mark.slow
def test_the_bundle_is_this_projects_file_and_licence(clone: Path, tmp_path: Path) -> None:
    packed = bundle(clone, tmp_path)
    assert set(packed) == {"pyproject.toml", "LICENSE", ".info/CONTENT"}
    project = tomllib.loads(packed["pyproject.toml"].decode())
    assert project["tool"]["flwr"]["app"]["fab-format-version"] == 1
    assert packed["LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_bundle_of_the_example_holds_the_example(clone: Path, tmp_path: Path) -> None:
    packed = bundle(clone / "examples" / "stranger", tmp_path)
    folders = {name.partition("/")[0] for name in packed}
    assert folders == {".info", "pyproject.toml", "LICENSE", "README.md", "plain", "stranger"}
    project = tomllib.loads(packed["pyproject.toml"].decode())
    assert project["tool"]["flwr"]["app"]["fab-format-version"] == 1
    assert packed["LICENSE"] == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(600)
def test_flwr_run_in_a_clone_ends_with_a_complete_run_folder(clone: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    given = f"rounds=2 clients=6 inner.lr=0.02 settings='engine = \"loop\"' out='{out}'"
    federation = "num-supernodes=2 client-resources-num-cpus=1 init-args-num-cpus=2"
    with workspace() as space:
        start_superlink(space, "--simulation", RAY_ADDRESS="local", FEDMAML_RUNS=str(tmp_path))
        command = ["flwr", "run", str(clone), CONNECTION, "--stream"]
        command += ["--federation-config", federation, "--run-config", given]
        stream = space.start("run", command, environment_of(space, "operator"))
        stream.popen.wait(PATIENCE)
        (run,) = ask(space, "ls", CONNECTION)["runs"]
        assert run["status"] == "finished:completed", stream.log.read_text()
        assert f"writing to {out}" in stream.log.read_text()
    directory = RunDirectory(out)
    summary = directory.summary()
    assert summary is not None
    assert (summary["backend"], summary["nodes"]) == ("flower-simulation", 2)
    assert summary["engines"]["updates"] == {"loop": 12}
    assert len(directory.rounds()) == 2
    assert len(directory.clients()) == summary["clients_test"] == 40
    state = directory.newest_state().state
    assert state is not None
    assert (state.round, sha256(state.server.meta)) == (2, summary["theta_sha256"])
    assert state.memories is None  # the nodes hold them
    settings = {"scenario": "digits", "strategy": "fomaml", "rounds": 2, "clients": 6}
    here = execute(resolve(settings, {"engine": "loop", "inner.lr": 0.02}), tmp_path / "here")
    assert summary["theta_sha256"] == here["theta_sha256"]
