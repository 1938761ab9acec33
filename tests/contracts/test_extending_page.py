"""The code on docs/extending.md runs as it stands there."""

import re

import pytest
import torch

from fedmaml.core import seeding
from fedmaml.core.params import flatten
from fedmaml.strategies.base import MetaStrategy
from fedmaml.verification import finite_differences, sent_update
from tests.conftest import ROOT

PAGE = (ROOT / "docs/extending.md").read_text()


@pytest.fixture(scope="module")
def anil() -> MetaStrategy:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "ANIL" in block]
    names: dict[str, object] = {"__name__": "anil"}
    exec(code, names)
    strategy = names["ANIL"]()  # type: ignore[operator]
    assert isinstance(strategy, MetaStrategy)
    return strategy


def test_the_strategy_sends_the_gradient_of_its_objective(anil, classification) -> None:
    start = anil.build(classification.problem, seeding.generator(0))
    task, meta = classification.task(), start.state.meta
    sent = sent_update(anil, start, meta, task)
    expected = finite_differences(anil, start, meta, task)
    error = (flatten(sent["theta"]) - flatten(expected["theta"])).norm()
    assert error < 1e-6 * flatten(expected["theta"]).norm()


def test_the_strategy_adapts_the_head_alone(anil, classification) -> None:
    start = anil.build(classification.problem, seeding.generator(0))
    theta = start.state.meta["theta"]
    fast = anil.adapt(start.learner, start.state.meta, {}, classification.task().support).args[0]
    changed = {name for name in theta if not torch.equal(theta[name], fast[name])}
    assert changed == {"head.weight", "head.bias"}
