"""Kernels in C++: built with the machine's compiler on first use, and kept for later runs.

The sources lie beside this file and make one library. It is kept in the user's cache folder under a
name that tells sources, flags and processor; ``FEDMAML_CACHE`` names another folder. Without a
compiler everything works without it; ``FEDMAML_NATIVE=0`` does as if there were none.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import sysconfig
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import pooch
from torch import Tensor

logger = logging.getLogger("fedmaml")

_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
_SOURCES = Path(__file__).parent


class NativeError(Exception):
    """The kernels cannot be had; the text says why."""


def library() -> ctypes.CDLL:
    """Return the library of all kernels, built if need be.

    Raises:
        NativeError: If there is no compiler, or it cannot build them.
    """
    found = _library()
    if isinstance(found, str):
        raise NativeError(found)
    return found


def missing() -> str:
    """Say why there are no kernels; "" if there are (they are then built)."""
    found = _library()
    return found if isinstance(found, str) else ""


def to_be_built() -> bool:
    """Tell whether the first use will build the kernels, which takes some seconds."""
    return os.environ.get("FEDMAML_NATIVE") != "0" and not _path().exists()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | str:
    """Return the library, or why there is none; tried once in a process."""
    if os.environ.get("FEDMAML_NATIVE") == "0":
        return "FEDMAML_NATIVE=0 forbids kernels in C++"
    path = _path()
    try:
        if not path.exists():
            _build(path)
        return ctypes.CDLL(str(path))
    except Exception as error:  # no compiler, no ninja, a full disk: none of them may stop a run
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"the kernels in C++ could not be built: {lines[0]}"


def run(kernel: str, *arguments: Tensor | int | float) -> None:
    """Call a kernel of the type of its first argument, on tensors without gaps.

    Args:
        kernel: Name; `_float32` or `_float64` is added.
        arguments: Tensors as pointers, ints as int64, floats as double.
    """
    first = arguments[0]
    assert isinstance(first, Tensor)
    name = f"{kernel}_{str(first.dtype).removeprefix('torch.')}"
    getattr(library(), name)(*(_as_c(argument) for argument in arguments))


def _as_c(argument: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_double(argument)


def cache_folder() -> Path:
    """Return the folder in which compiled code is kept."""
    return Path(os.environ.get("FEDMAML_CACHE") or pooch.os_cache("fedmaml"))


def _path() -> Path:
    return cache_folder() / "native" / f"kernels-{_fingerprint()}.so"


def _fingerprint() -> str:
    """Tell apart what may not be interchanged: sources, flags, and the processor they are for."""
    digest = hashlib.sha256(repr(_FLAGS).encode())
    for source in sorted((*_SOURCES.glob("*.h"), *_SOURCES.glob("*.cpp"))):
        digest.update(source.read_bytes())
    information = Path("/proc/cpuinfo")
    processor = platform.machine() + platform.processor()
    if information.exists():  # another processor may lack instructions of this one
        lines = information.read_text().splitlines()
        processor += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    digest.update(processor.encode())
    return digest.hexdigest()[:16]


def _build(path: Path) -> None:
    """Build in a folder of our own, then move: many processes may do so at once."""
    from torch.utils import cpp_extension

    started = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("PATH", "")
    scripts = sysconfig.get_path("scripts")  # ninja may be installed there, off the PATH
    os.environ["PATH"] = os.pathsep.join([scripts, before])
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            cpp_extension.load(
                name="fedmaml_kernels",
                sources=[str(source) for source in sorted(_SOURCES.glob("*.cpp"))],
                extra_cflags=list(_FLAGS),
                build_directory=folder,
                is_python_module=False,
            )
            (built,) = Path(folder).glob("*.so")
            shutil.move(built, path)
    finally:
        os.environ["PATH"] = before
    logger.info("built kernels in %.1f s: %s", time.perf_counter() - started, path)
