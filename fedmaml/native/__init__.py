"""Kernels in C++: built with the machine's compiler on first use, and kept for later runs.

The sources lie beside this file. A built library is kept in the user's cache folder under a name
that tells source, flags and processor; ``FEDMAML_CACHE`` names another folder. Without a compiler
everything works without them; ``FEDMAML_NATIVE=0`` does as if there were none.
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

logger = logging.getLogger("fedmaml")

_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")


class NativeError(Exception):
    """A kernel cannot be had; the text says why."""


@lru_cache(maxsize=8)
def library(name: str, *flags: str) -> ctypes.CDLL:
    """Return a kernel's library, built if need be.

    Args:
        name: Of the source file, without ".cpp".
        *flags: For the compiler, beside the usual ones.

    Raises:
        NativeError: If there is no compiler, or it cannot build the kernel.
    """
    if os.environ.get("FEDMAML_NATIVE") == "0":
        raise NativeError("FEDMAML_NATIVE=0 forbids kernels in C++")
    source = Path(__file__).with_name(f"{name}.cpp")
    flags = (*_FLAGS, *flags)
    path = _folder() / f"{name}-{_fingerprint(flags)}.so"
    if not path.exists():
        _build(name, source, flags, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"{path} cannot be loaded: {error}") from error


@lru_cache(maxsize=8)
def missing(name: str, *flags: str) -> str:
    """Say why a kernel cannot be had; "" if it can (it is then built)."""
    try:
        library(name, *flags)
    except NativeError as error:
        return str(error)
    return ""


def _folder() -> Path:
    return Path(os.environ.get("FEDMAML_CACHE") or pooch.os_cache("fedmaml")) / "native"


def _fingerprint(flags: tuple[str, ...]) -> str:
    """Tell apart what may not be interchanged: sources, flags, and the processor they are for."""
    digest = hashlib.sha256(repr(flags).encode())
    for source in sorted(Path(__file__).parent.glob("*.[ch]*")):
        digest.update(source.read_bytes())
    information = Path("/proc/cpuinfo")
    processor = platform.machine() + platform.processor()
    if information.exists():  # another processor may lack instructions of this one
        lines = information.read_text().splitlines()
        processor += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    digest.update(processor.encode())
    return digest.hexdigest()[:16]


def _build(name: str, source: Path, flags: tuple[str, ...], path: Path) -> None:
    """Build in a folder of our own, then move: many processes may do so at once."""
    from torch.utils import cpp_extension

    started = time.perf_counter()
    scripts = sysconfig.get_path("scripts")  # ninja may be installed there, off the PATH
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([scripts, before])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            cpp_extension.load(
                name=f"fedmaml_{name}",
                sources=[str(source)],
                extra_cflags=list(flags),
                build_directory=folder,
                is_python_module=False,
            )
            (built,) = Path(folder).glob("*.so")
            shutil.move(built, path)
    except Exception as error:  # no compiler, no ninja, a full disk: none may stop a run
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise NativeError(f"{source.name} could not be built: {reason[0]}") from error
    finally:
        os.environ["PATH"] = before
    logger.info("built %s in %.1f s: %s", source.name, time.perf_counter() - started, path)
