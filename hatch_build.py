"""Compiles the kernels into a wheel; without a compiler the wheel carries their sources alone."""

import importlib.util
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path(__file__).parent / "fedmaml" / "native"


class Kernels(BuildHookInterface):
    """Adds ``fedmaml/native/kernels-LEVEL-DIGEST.so`` to the wheel, one for each level."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a clone that is installed as it is (editable) builds at first use instead."""
        if version == "editable" or not sys.platform.startswith("linux"):
            return
        if platform.machine() != "x86_64":
            return
        compilers = _compilers()
        try:
            compiler = compilers.find()
            sources = sorted(NATIVE.glob("*.cpp"))
            self._folder = tempfile.TemporaryDirectory()
            for level in compilers.LEVELS:
                name = compilers.shipped_name(level, (*sources, *NATIVE.glob("*.h")))
                library = Path(self._folder.name) / name
                compilers.build(compiler, sources, library, level)
                build_data["force_include"][str(library)] = f"fedmaml/native/{name}"
        except compilers.NativeError as error:
            self.app.display_warning(f"the wheel carries no compiled kernels: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled; it is in the wheel."""
        del version, build_data, artifact_path
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _compilers() -> Any:
    """Return fedmaml.native.compilers without its package, which needs PyTorch."""
    name = "fedmaml_compilers"
    spec = importlib.util.spec_from_file_location(name, NATIVE / "compilers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module
