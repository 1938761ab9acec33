"""Finds the C++ compiler that builds the kernels, and calls it.

It is the one that ``CXX`` names, else ``c++`` on the PATH, else the clang inside the package
ziglang, which the extra ``fedmaml[compiler]`` installs. The library has a plain C interface and
links nothing of PyTorch, so any of them builds it with one call.
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LEVELS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
}
"""Processors for which a wheel carries the kernels -> the flags that they need, best first.

As named by the psABI of x86-64; each includes the ones below it.
"""

_FLAGS = (
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast",  # gcc's default, which clang does not share
    "-Wno-psabi", "-shared", "-fPIC", "-pthread",
)  # fmt: skip
_X86_FLAGS = ("-mprefer-vector-width=512",)  # clang would halve the vectors; gcc does not care
_SHIPPED_FLAGS = ("-static-libstdc++", "-static-libgcc")  # a user may have neither
_LINUX_FLAGS = ("-Wl,-z,defs",)  # else gcc may make a library that cannot be loaded

_CURE = "install g++, or run: pip install 'fedmaml[compiler]'"


class NativeError(Exception):
    """The kernels are not available; the text says why."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that was found to start.

    Attributes:
        command: Program and first arguments.
        version: First line of its ``--version``.
        seconds: Approximate time to build the kernels on one core.
    """

    command: tuple[str, ...]
    version: str
    seconds: int


def of_the_system() -> tuple[str, ...]:
    """Return the command in ``CXX``, or ``c++`` if it is on the PATH; () if there is neither."""
    if given := os.environ.get("CXX", "").strip():
        try:
            return tuple(shlex.split(given))
        except ValueError:  # a quotation that is not closed: no such program, as is said then
            return (given,)
    return ("c++",) if shutil.which("c++") else ()


def find() -> Compiler:
    """Return the compiler that builds the kernels.

    Raises:
        NativeError: If there is none, or it cannot be started.
    """
    if command := of_the_system():
        return Compiler(command, _version(command), seconds=10)
    if importlib.util.find_spec("ziglang"):
        command = (sys.executable, "-m", "ziglang", "c++")
        # Most of it goes into the C++ library that ziglang brings as source.
        return Compiler(command, f"{_version(command)} of ziglang", seconds=60)
    raise NativeError(f"there is no C++ compiler (no c++ on the PATH, no CXX); {_CURE}")


def shipped_name(level: str, sources: Sequence[Path]) -> str:
    """Return the name of the file that a wheel carries for a level of processors.

    Args:
        level: One of `LEVELS`.
        sources: What it is compiled from, headers included.
    """
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return f"kernels-{level}-{digest.hexdigest()[:16]}.so"


def supported_levels() -> list[str]:
    """Return the levels that this processor has, best first; [] if that cannot be seen."""
    information = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not information.exists():
        return []
    lines = information.read_text().splitlines()
    known = set(next((line for line in lines if line.startswith("flags")), "").split())
    needed: set[str] = set()
    supported: list[str] = []
    for level, flags in reversed(LEVELS.items()):
        needed |= flags
        if needed <= known:
            supported.insert(0, level)
    return supported


def flags() -> tuple[str, ...]:
    """Return the flags for every compiler and processor."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    linux = sys.platform.startswith("linux")
    return _FLAGS + (_X86_FLAGS if x86 else ()) + (_LINUX_FLAGS if linux else ())


def build(
    compiler: Compiler, sources: Sequence[Path], library: Path, level: str = "native"
) -> None:
    """Compile the sources into a shared library.

    Args:
        compiler: The compiler.
        sources: Its files in C++.
        library: Its file, in a folder that will be deleted.
        level: Processors for which it is compiled: one of `LEVELS`, or this one.

    Raises:
        NativeError: If the compiler fails; the text has the first line that says why.
        OSError: If it cannot be started.
    """
    # Without a cache of its own ziglang would leave 90 MB in the home folder.
    cache = {f"ZIG_{which}_CACHE_DIR": str(library.parent) for which in ("GLOBAL", "LOCAL")}
    shipped = _SHIPPED_FLAGS if level != "native" else ()
    environment = cache | os.environ | {"LC_ALL": "C"}  # "error" in English
    done = subprocess.run(
        [*compiler.command, f"-march={level}", *flags(), *shipped, *map(str, sources),
         "-o", str(library)],
        capture_output=True, text=True, errors="replace", check=False, env=environment,
    )  # fmt: skip
    if done.returncode or not library.exists():
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}, no message"]
        why = next((line for line in lines if "error" in line or "ld: " in line), lines[0])
        undefined = "undefined" in done.stderr
        cure = "; let CXX name a compiler of C++, e.g. g++" if undefined else ""
        raise NativeError(
            f"{shlex.join(compiler.command)} ({compiler.version}) failed: {why}{cure}"
        )


def _version(command: tuple[str, ...]) -> str:
    """Return the first line of ``--version``.

    Raises:
        NativeError: If the command cannot be started, or fails.
    """
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, errors="replace", check=False
        )
        why = f"exit status {done.returncode}" if done.returncode or not done.stdout else ""
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        called = shlex.join(command)
        cure = "let CXX name one that is"
        if os.environ.get("CXX"):
            called, cure = f"CXX={called}", f"{cure}, or unset it"
        raise NativeError(f"{called} is no usable C++ compiler ({why}); {cure}")
    return done.stdout.splitlines()[0]
