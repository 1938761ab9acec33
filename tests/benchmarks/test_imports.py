"""Every benchmark can be imported: what it measures is still where it looks for it."""

import importlib
import pkgutil

import pytest

import benchmarks

APART = {"benchmarks.engine.jax_worker": "it runs where JAX is installed"}
MODULES = [
    each.name
    for each in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")
    if each.name not in APART and not each.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    importlib.import_module(name)
