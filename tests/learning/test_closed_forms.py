"""Whole runs end where the mathematics says: four strategies, four different points."""

from pathlib import Path

import pytest

from fedmaml.config import resolve
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.kernels import KernelSpec
from fedmaml.running import execute
from fedmaml.strategies import CATALOGUE
from fedmaml.strategies.base import kernel_spec

CASES = [("maml", 5), ("fomaml", 5), ("reptile", 5), ("fedavg", 1)]
MORE = [(strategy, steps) for strategy in ("maml", "fomaml", "reptile", "fedavg")
        for steps in (1, 3, 10)]  # fmt: skip


def distance(strategy: str, steps: int, out: Path) -> float:
    config = resolve({"scenario": "quadratic", "strategy": strategy, "inner.steps": steps})
    return float(execute(config, out)["distance_to_closed_form"])


@pytest.mark.parametrize(("strategy", "steps"), CASES)
def test_run_converges_to_the_closed_form(strategy: str, steps: int, tmp_path: Path) -> None:
    assert distance(strategy, steps, tmp_path / "run") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "steps"), MORE)
def test_run_converges_at_other_numbers_of_steps(strategy: str, steps: int, tmp_path: Path) -> None:
    assert distance(strategy, steps, tmp_path / "run") < 1e-5


def test_the_four_points_differ(tmp_path: Path) -> None:
    from fedmaml.simulations.scenarios import Quadratic

    points = []
    for strategy, steps in CASES:
        spec = kernel_spec(CATALOGUE[strategy](inner=GradientSteps(lr=0.1, steps=steps)))
        assert isinstance(spec, KernelSpec)
        points.append(Quadratic().closed_form(spec))
    for i, left in enumerate(points):
        for right in points[:i]:
            assert left is not None
            assert right is not None
            assert (left - right).norm() / right.norm() > 1e-3
