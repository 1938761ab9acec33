"""Who builds the kernels: the system's compiler, ziglang's, or nobody, and then the reason."""

import ctypes
import importlib.util
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmaml import native
from fedmaml.computing.engines.fused import call, predictions
from fedmaml.native import compilers
from tests.commands import fedmaml

ROOT = Path(__file__).resolve().parents[2]
KERNEL_TESTS = ("client/test_engines.py", "client/test_first_block.py", "core/test_aggregation.py")


@pytest.fixture(autouse=True)
def look_again() -> Iterator[None]:
    """The library is looked for once in a process."""
    native._library.cache_clear()
    yield
    native._library.cache_clear()


@pytest.fixture
def kernels() -> None:
    """The kernels are in the cache, whoever built them."""
    if reason := native.missing():
        pytest.skip(reason)
    native._library.cache_clear()


@pytest.fixture
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FEDMAML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def nothing_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.fixture
def no_ziglang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ziglang", None)  # type: ignore[arg-type]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def script(path: Path, text: str) -> str:
    """Write a program for the shell, and return its name."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("nothing_on_the_path", "no_ziglang", "fresh_cache")
def test_without_any_compiler_a_run_names_the_cure_once_and_works(tmp_path: Path) -> None:
    arguments = ["run", "digits", "--strategy", "fomaml", "--rounds", "2", "--out", "run"]
    done = fedmaml(*arguments, "--set", "task.test_clients=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reason = (
        "the kernels in C++ are not available: there is no C++ compiler (no c++ on the PATH, no "
        "CXX); install g++, or run: pip install 'fedmaml[compiler]'"
    )
    assert done.stderr.count(reason) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["updates_used"] > 0
    assert "fused" not in summary["engines"]["updates"]


@pytest.mark.usefixtures("kernels", "nothing_on_the_path", "no_ziglang")
def test_without_any_compiler_kept_kernels_are_used() -> None:
    assert native.missing() == ""


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.usefixtures("kernels")
def test_a_wrong_cxx_is_not_covered_up_by_kernels_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    assert "CXX=/nonexistent/c++ is no usable C++ compiler" in native.missing()


@pytest.mark.parametrize(
    ("compiler", "why"), [("/nonexistent/c++", "No such file"), ("false -x", "exit status 1")]
)
def test_a_wrong_cxx_is_named(monkeypatch: pytest.MonkeyPatch, compiler: str, why: str) -> None:
    monkeypatch.setenv("CXX", compiler)
    reason = native.missing()
    assert f"are not available: CXX={compiler} is no usable C++ compiler ({why}" in reason
    assert reason.endswith("let CXX name one that is, or unset it")
    with pytest.raises(native.NativeError, match="no usable C"):
        native.compiled_by()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.slow
def test_a_library_that_cannot_be_loaded_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    monkeypatch.setenv("CXX", "gcc")  # compiles C++, but links none of its runtime
    reason = native.missing()
    assert "are not available: gcc (" in reason
    assert reason.endswith("let CXX name a compiler of C++, e.g. g++")
    assert not list(fresh_cache.rglob("*.so"))


def test_a_quotation_that_is_not_closed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "'g++")
    assert "is no usable C++ compiler" in native.missing()


@pytest.mark.parametrize(
    ("fails", "why"),
    [
        ("echo In file included from a; echo 'a.cpp:1: error: no such luck'", "a.cpp:1: error"),
        ("true", "exit status 1, no message"),
    ],
)
def test_a_compiler_that_fails_is_named_in_one_line_after_it_was_announced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    tmp_path: Path, fresh_cache: Path, fails: str, why: str,
) -> None:  # fmt: skip
    text = f'[ "$1" = --version ] && echo Worst 1.0 && exit 0\n({fails}) >&2\nexit 1'
    compiler = script(tmp_path / "worst", text)
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING, "fedmaml"):
        reason = native.missing()
    assert reason.startswith(
        f"the kernels in C++ are not available: {compiler} (Worst 1.0) failed: {why}"
    )
    assert "\n" not in reason
    (announcement,) = caplog.messages
    assert announcement.startswith(
        "building the kernels in C++ with Worst 1.0, once on this machine"
    )
    assert not list((fresh_cache / "native").iterdir())


@pytest.mark.usefixtures("kernels")
def test_kernels_of_one_compiler_are_not_those_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = script(tmp_path / "other", '[ "$1" = --version ] && echo Other 2.0')
    monkeypatch.setenv("CXX", compiler)
    assert "(Other 2.0) failed" in native.missing()


@pytest.mark.usefixtures("nothing_on_the_path")
def test_the_compiler_of_the_system_comes_before_ziglang(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path / "c++", "echo Of the system")
    assert compilers.find().version == "Of the system"
    monkeypatch.setenv("CXX", script(tmp_path / "named", "echo Named"))
    assert compilers.find().version == "Named"


def library_of_nothing(path: Path) -> None:
    """Build what a compiler makes of no kernels."""
    source = path.with_suffix(".cpp")
    source.write_text('extern "C" int compiled_by() { return 1; }\n')
    compilers.build(compilers.find(), [source], path)


def test_the_functions_that_are_needed_are_those_that_are_called() -> None:
    called = set()
    for source in (ROOT / "fedmaml").rglob("*.py"):
        called.update(re.findall(r'native\.run\(\s*"(\w+)"', source.read_text()))
        called.update(re.findall(r"library\(\)\.(\w+)", source.read_text()))
    called |= {*call._KERNELS.values(), *predictions._KERNELS.values()}
    needed = {name.removesuffix("_float32").removesuffix("_float64") for name in native.SYMBOLS}
    assert {name.removesuffix("_float32").removesuffix("_float64") for name in called} == needed


@pytest.mark.usefixtures("fresh_cache")
def test_without_sources_nothing_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_cache: Path
) -> None:
    (tmp_path / "incomplete").mkdir()
    monkeypatch.setattr(native, "_SOURCES", tmp_path / "incomplete")
    reason = native.missing()
    assert f"there are no sources (*.cpp) in {tmp_path / 'incomplete'}" in reason
    assert reason.endswith("use an installed one (pip install fedmaml)")
    assert not list(fresh_cache.rglob("*.so"))


@pytest.mark.usefixtures("kernels")
def test_a_library_without_the_kernels_is_built_again(
    monkeypatch: pytest.MonkeyPatch, fresh_cache: Path, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "two.cpp").write_text('extern "C" { void one() {} void two() {} }\n')
    monkeypatch.setattr(native, "_SOURCES", tmp_path)
    monkeypatch.setattr(native, "SYMBOLS", ("one", "two"))
    with monkeypatch.context() as patch:
        patch.setattr(native, "_build", lambda path, _: library_of_nothing(path))
        (fresh_cache / "native").mkdir(parents=True)
        native._loaded_or_built()
    (path,) = (fresh_cache / "native").glob("*.so")
    with caplog.at_level(logging.WARNING, "fedmaml"):
        assert native.missing() == ""
    assert caplog.messages[0].endswith(f"{path} lacks 2 of 2 functions, the first is one")
    assert hasattr(native.library(), "two")
    shutil.copy(path, tmp_path / "copy.so")  # the loader would return what it has by this name
    assert hasattr(ctypes.CDLL(str(tmp_path / "copy.so")), "two")


@pytest.mark.usefixtures("kernels", "no_ziglang")
def test_a_library_without_the_kernels_is_refused_where_nobody_can_build_it(
    monkeypatch: pytest.MonkeyPatch, fresh_cache: Path, tmp_path: Path
) -> None:
    path = fresh_cache / "native" / f"kernels-{native._fingerprint()}-foreign.so"
    path.parent.mkdir(parents=True)
    library_of_nothing(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    reason = native.missing()
    functions = len(native.SYMBOLS)
    assert f"{path} lacks {functions - 1} of {functions} functions" in reason
    assert reason.endswith("it was built from other sources: delete it, and install a compiler")


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_on_the_path", "fresh_cache")
def test_ziglang_builds_kernels_that_equal_the_loop(tmp_path: Path) -> None:
    if not importlib.util.find_spec("ziglang"):
        pytest.skip("the package ziglang is not installed: pip install 'fedmaml[compiler]'")
    assert shutil.which("c++") is None
    built = python("-c", "from fedmaml import native; print(native.compiled_by())")
    assert built.stdout.startswith("Clang "), built.stderr
    assert "of ziglang, once on this machine; this takes about 60 s" in built.stderr
    assert len(list((tmp_path / "cache" / "native").iterdir())) == 1
    tests = [str(ROOT / "tests" / name) for name in KERNEL_TESTS]
    held = python("-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts=", "-rs", *tests)
    assert held.returncode == 0, held.stdout[-2000:]
    assert "not available" not in held.stdout
