"""The wheel carries the kernels, so that a machine without a compiler has them."""

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedmaml import native
from fedmaml.native import compilers
from tests.conftest import ROOT

ON_X86 = sys.platform.startswith("linux") and platform.machine() == "x86_64"
V3 = "fpu sse2 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.skipif(not ON_X86, reason="levels are those of x86-64 on Linux")
@pytest.mark.parametrize(
    ("flags", "levels"),
    [("fpu sse2", []), (V3, ["x86-64-v3"]), (V4, ["x86-64-v4", "x86-64-v3"]),
     (V4.replace(" fma", ""), [])],
)  # fmt: skip
def test_levels_follow_from_the_processors_flags(
    flags: str, levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _path: f"processor : 0\nflags : {flags}\n")
    assert compilers.supported_levels() == levels


def test_a_library_of_other_sources_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.cpp").write_text("// first")
    name = compilers.shipped_name("x86-64-v3", [tmp_path / "a.cpp"])
    (tmp_path / name).touch()
    monkeypatch.setattr(native, "_SOURCES", tmp_path)
    monkeypatch.setattr(compilers, "supported_levels", lambda: ["x86-64-v4", "x86-64-v3"])
    monkeypatch.delenv("CXX", raising=False)
    assert native._carried() == tmp_path / name
    monkeypatch.setenv("CXX", "g++")
    assert native._carried() is None
    monkeypatch.delenv("CXX")
    (tmp_path / "a.cpp").write_text("// second")
    assert native._carried() is None


@pytest.mark.slow
@pytest.mark.skipif(not ON_X86, reason="wheels carry kernels for x86-64 on Linux")
def test_kernels_of_the_wheel_work_without_a_compiler_and_a_clone(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*pip, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "linux_x86_64" in wheel.name
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    environment = {key: value for key, value in os.environ.items() if key != "CXX"}
    environment |= {
        "PYTHONPATH": str(installed), "PATH": str(tmp_path), "FEDMAML_CACHE": str(tmp_path / "c"),
    }  # fmt: skip
    code = (
        "from fedmaml import native; print(native.__file__, repr(native.missing()));"
        "from fedmaml.cli import process; import sys;"
        "sys.argv = ['fedmaml', 'run', 'digits', '--rounds', '2', '--engine', 'fused', '--json'];"
        "process()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{installed}/fedmaml/native/__init__.py ''"
    assert "building the kernels" not in done.stderr
    assert not (tmp_path / "c").exists()
