"""Kernels in C++: those that the wheel carries, or built on first use and kept for later runs.

A wheel for x86-64 carries them for processors with AVX-512 and with AVX2, so that no compiler is
needed; ``CXX`` asks for a build. Elsewhere, and in a clone, they are built.

The sources are beside this file and make one library. It is kept in the user's cache folder; its
name identifies sources, flags, processor and compiler. ``FEDMAML_CACHE`` names another folder.
`compilers` finds the compiler. Without a compiler, a library of another compiler in the cache is
used; without any library, everything works, but more slowly; ``FEDMAML_NATIVE=0`` forbids the
kernels. A library that lacks one of the `SYMBOLS` is built again, or refused without a compiler.
"""

import ctypes
import hashlib
import logging
import os
import platform
import stat
import tempfile
import time
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_path
from torch import Tensor

from fedmaml.native import compilers
from fedmaml.native.compilers import Compiler, NativeError

logger = logging.getLogger("fedmaml")

_SOURCES = Path(__file__).parent

_OF_BOTH_TYPES = (
    "add_low_rank", "exact_sum", "form_low_rank", "fused", "fused_predictions",
    "pooled_convolution", "pooled_gradient", "pooled_group_gradient",
    "pooled_group_norm", "products_of_taps", "statistics",
)  # fmt: skip
SYMBOLS = (
    "compiled_by", "mean_of_limbs_float64", "pooled_convolution_group_bytes",
    *(f"{kernel}_{dtype}" for kernel in _OF_BOTH_TYPES for dtype in ("float32", "float64")),
)  # fmt: skip
"""Every function that the library must have."""


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
    """Return why there are no kernels; "" if there are (they are then built)."""
    found = _library()
    return found if isinstance(found, str) else ""


def compiled_by() -> str:
    """Return the compiler that built the kernels, by its own name.

    Raises:
        NativeError: If there are no kernels.
    """
    function = library().compiled_by
    function.restype = ctypes.c_char_p
    name: bytes = function()
    return name.decode()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | str:
    """Return the library, or why there is none; tried once in a process."""
    if os.environ.get("FEDMAML_NATIVE") == "0":
        return "FEDMAML_NATIVE=0 forbids kernels in C++"
    try:
        return _loaded_or_built()
    except Exception as error:  # no compiler, a full disk, a bad cache: none of them may stop a run
        lines = str(error).strip().splitlines() or [type(error).__name__]
        where = "; FEDMAML_CACHE names their folder" if type(error) is not NativeError else ""
        return f"the kernels in C++ are not available: {lines[0]}{where}"


def _loaded_or_built() -> ctypes.CDLL:
    """Return the library, built if need be.

    Raises:
        NativeError: If there is none, and none can be built.
        OSError: If the cache folder cannot be written, or a library not be loaded.
    """
    if carried := _carried():
        return _loaded(carried)
    folder, name = cache_folder() / "native", f"kernels-{_fingerprint()}"
    try:
        compiler = compilers.find()
    except NativeError:
        kept = [path for path in sorted(folder.glob(f"{name}-*.so")) if not distrusted(path)]
        if kept and not compilers.of_the_system():
            return _loaded(
                kept[0], "; it was built from other sources: delete it, and install a compiler"
            )
        raise  # a compiler that the user names is never replaced
    of_compiler = hashlib.sha256(compiler.version.encode()).hexdigest()[:8]
    path = folder / f"{name}-{of_compiler}.so"
    if os.path.lexists(path):
        try:
            if why := distrusted(path):
                raise NativeError(why)
            return _loaded(path)
        except (NativeError, OSError) as error:
            logger.warning("the kernels are built again: %s", error)
    return _build(path, compiler)


def _carried() -> Path | None:
    """Return the library that the wheel carries for this processor; None if there is none."""
    if os.environ.get("CXX"):
        return None
    sources = (*_SOURCES.glob("*.h"), *_SOURCES.glob("*.cpp"))
    for level in compilers.supported_levels():
        path = _SOURCES / compilers.shipped_name(level, sources)
        if path.exists():
            return path
    return None


def _loaded(path: Path, cure: str = "") -> ctypes.CDLL:
    """Load a library, and make sure that it has every function.

    Raises:
        NativeError: If it lacks a function.
        OSError: If it cannot be loaded.
    """
    found = ctypes.CDLL(str(path))
    if lacking := [name for name in SYMBOLS if not hasattr(found, name)]:
        count = f"{len(lacking)} of {len(SYMBOLS)}"
        raise NativeError(f"{path} lacks {count} functions, the first is {lacking[0]}{cure}")
    return found


def threads() -> int:
    """Return how many threads a kernel may use; bits do not depend on it, since sums are exact.

    As many as ``OMP_NUM_THREADS`` says, which is 1 in workers and in processes of Flower; else one
    for each core that this process may use.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if said.isdecimal() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    return Path(os.environ.get("FEDMAML_CACHE") or user_cache_path("fedmaml"))


def _fingerprint() -> str:
    """Return a hash of what a library depends on: sources, flags, and the processor."""
    digest = hashlib.sha256(repr(compilers.flags()).encode())
    for source in sorted((*_SOURCES.glob("*.h"), *_sources())):
        digest.update(source.read_bytes())
    information = Path("/proc/cpuinfo")
    processor = platform.machine()
    if information.exists():  # another processor may lack instructions of this one
        lines = information.read_text().splitlines()
        processor += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    else:
        processor += platform.processor()
    digest.update(processor.encode())
    return digest.hexdigest()[:16]


def distrusted(path: Path) -> str:
    """Return why a kept library must not be loaded: somebody else may have written it; "" if not.

    Whoever writes to the folder runs code in the processes that load from it.
    """
    if os.name == "nt":
        return ""
    if path.is_symlink():
        return f"{path} is a link"
    for each in (path.parent, path):
        found = each.stat()
        if found.st_uid not in (os.getuid(), 0):
            return f"{each} belongs to another user (number {found.st_uid})"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{each} can be written by others"
    return ""


def _own_folder(folder: Path) -> None:
    """Make a folder that its owner alone can write to.

    Raises:
        NativeError: If it is another user's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        return
    if folder.stat().st_uid != os.getuid():
        raise NativeError(
            f"{folder} belongs to another user, who could change what is built there: name a "
            "folder of your own with FEDMAML_CACHE"
        )
    folder.chmod(folder.stat().st_mode & ~(stat.S_IWGRP | stat.S_IWOTH))


def _sources() -> list[Path]:
    """Return the files that are compiled.

    Raises:
        NativeError: If there are none, as in a copy of the package without its C++ files.
    """
    found = sorted(_SOURCES.glob("*.cpp"))
    if not found:
        raise NativeError(
            f"there are no sources (*.cpp) in {_SOURCES}: this copy of fedmaml is incomplete; use "
            "an installed one (pip install fedmaml)"
        )
    return found


def _build(path: Path, compiler: Compiler) -> ctypes.CDLL:
    """Build in a temporary folder, load, then move: many processes may do so at once.

    The library is loaded before it is moved: by its final name the loader would return the old one.
    """
    _own_folder(path.parent)
    logger.warning(
        "building the kernels in C++ with %s, once on this machine; this takes about %d s",
        compiler.version, compiler.seconds,
    )  # fmt: skip
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        compilers.build(compiler, _sources(), built)
        loaded = _loaded(built)
        built.chmod(0o700)
        built.replace(path)
    logger.info("built kernels in %.1f s: %s", time.perf_counter() - started, path)
    return loaded
