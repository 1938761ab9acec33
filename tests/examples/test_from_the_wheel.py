"""A stranger's first hour: the wheel alone, an empty folder, own files, all three back ends.

The environment holds the wheel and what this one holds beside fedmaml; no clone is on its path.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_new_app import MAX_OWN_LINES, own_lines

OWN = Path(__file__).parent / "wheel"
MAX_LINES = {"wards.py": 25, "my_anil.py": 30}
BACKENDS = ("in-process", "flower-simulation", "flower-deployment")
SECONDS = 900


@pytest.mark.parametrize("name", MAX_LINES)
def test_own_files_are_short(name: str) -> None:
    lines = [line for line in (OWN / name).read_text().splitlines() if line.strip()]
    assert len(lines) <= MAX_LINES[name]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("stranger")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*pip, str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    programs = folder / "env" / "bin"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run([programs / "python", *install], check=True)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "zz_others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for script in Path(sys.executable).parent.glob("fl*w*r*"):  # those of Flower, for this Python
        head, _, rest = script.read_text().partition("\n")
        (programs / script.name).write_text(f"#!{programs / 'python'}\n{rest}")
        (programs / script.name).chmod(0o755)
        assert head.startswith("#!")
    return programs


def stranger(programs: Path, folder: Path, *words: str) -> str:
    """Run the command in a folder; return what it prints."""
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [programs / "fedmaml", *words], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def on_all_backends(programs: Path, folder: Path, *what: str) -> list[str]:
    """Run a scenario on every back end; return the hashes of what was learned."""
    found = []
    for backend in BACKENDS:
        done = stranger(programs, folder, "run", *what, "--rounds", "2", "--backend", backend,
                        "--nodes", "2", "--out", f"out-{backend}", "--json")  # fmt: skip
        found.append(json.loads(done)["theta_sha256"])
    return found


def every_command(programs: Path, folder: Path, scenario: str, strategy: str) -> None:
    """Check, estimate, audit, compare and report."""
    for command in ("check", "estimate", "audit"):
        stranger(programs, folder, command, scenario, "--strategy", strategy)
    stranger(programs, folder, "compare", scenario, "--strategies", f"{strategy},fomaml", "--seeds",
             "2", "--rounds", "2", "--out", "compared")  # fmt: skip
    stranger(programs, folder, "report", "compared", "--force")
    stranger(programs, folder, "figures", "compared", "--out", "article")
    assert (folder / "compared" / "report.html").is_file()
    assert (folder / "article" / "table-results.tex").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise")
def test_the_demo_needs_nothing_but_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = [installed / "python", "-c", "import fedmaml; print(fedmaml.__file__)"]
    done = subprocess.run(where, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent)
    said = stranger(installed, tmp_path, "demo")
    assert "In this one training run" in said
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise")
def test_own_scenario_and_own_strategy_on_every_back_end(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for name in MAX_LINES:
        shutil.copy(OWN / name, tmp_path)
    assert len({*on_all_backends(installed, tmp_path, "wards.py", "--strategy", "my_anil.py")}) == 1
    every_command(installed, tmp_path, "wards.py", "my_anil.py")


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise")
def test_own_app_on_every_back_end(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    stranger(installed, tmp_path, "new", "app", "our_wards")
    files = (tmp_path / "our-wards" / "our_wards").glob("*.py")
    assert sum(map(own_lines, files)) <= MAX_OWN_LINES
    task = "our-wards/our_wards/task.py"
    assert len({*on_all_backends(installed, tmp_path, task)}) == 1
    every_command(installed, tmp_path, task, "maml")
