"""The engine `shared` equals the loop, for every metric strategy and kind of layer."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedmaml.computing.engines import ENGINES, LOOP, Job, Rows, plan
from fedmaml.core import losses, seeding
from fedmaml.core.learner import Problem
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.params import flatten
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.strategies import CATALOGUE, FOMAML, ProtoNet
from fedmaml.strategies.base import MetaStrategy
from fedmaml.strategies.comparing import by_comparison
from tests.outside.matching import Matching

SHARED = ENGINES["shared"]
BY_COMPARISON = [cls for cls in map(CATALOGUE.get, CATALOGUE) if cls.adapt is by_comparison]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: MLP((4, 6, 5, 3)), (4,)),
    "tanh": (lambda: MLP((4, 6, 3), torch.tanh), (4,)),
    "conv4 by groups": (lambda: Conv4(1, 16, 3, filters=4), (1, 16, 16)),
    "conv4": (lambda: Conv4(3, 33, 3, filters=4, norm="batch"), (3, 33, 33)),
}


def case(
    strategy: MetaStrategy, name: str, dtype: torch.dtype = torch.float64
) -> tuple[Job, TaskGroup]:
    network, features = NETWORKS[name]
    start = strategy.build(
        Problem(network, losses.cross_entropy, (), classes=3, dtype=dtype),
        seeding.generator(0, "init"),
    )
    rng = seeding.generator(0, "tasks")
    batches = [
        Batch(
            torch.randn(5, rows, *features, generator=rng, dtype=torch.float64).to(dtype),
            torch.randint(0, 3, (5, rows), generator=rng),
        )
        for rows in (4, 6)
    ]
    group = TaskGroup(tuple(range(10, 15)), Task(*batches))
    return Job(strategy, start.learner, start.state.meta), group


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("strategy", [Matching, *BY_COMPARISON])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4)])
def test_equals_the_loop(
    strategy: type[MetaStrategy], name: str, dtype: torch.dtype, tolerance: float
) -> None:
    job, group = case(strategy(), name, dtype)
    memories: dict[int, dict[str, torch.Tensor]] = {client: {} for client in group.clients}
    assert SHARED.why_unsupported(job) == ""
    (found,) = SHARED.compute(job, [group], memories)
    assert isinstance(found, Rows)
    for row, one in enumerate(LOOP.compute(job, [group], memories)):
        assert isinstance(one, Rows)
        assert one.clients == (found.clients[row],)
        assert set(one.results.update) == set(found.results.update) == set(job.meta)
        for name in job.meta:
            expected = flatten(one.results.update[name], 1)[0]
            own = flatten(found.results.update[name], 1)[row]
            assert (own - expected).norm() <= tolerance * expected.norm()
        assert float(one.results.weight) == float(found.results.weight[row])
        for metric, value in one.results.metrics.items():
            assert float(found.results.metrics[metric][row]) == pytest.approx(
                float(value), rel=tolerance
            )


def test_auto_takes_it_and_refusals_say_why() -> None:
    assert plan("auto", case(ProtoNet(), "mlp")[0]).engine is SHARED
    assert "FOMAML does not adapt by comparison" in SHARED.why_unsupported(case(FOMAML(), "mlp")[0])
    job, _ = case(ProtoNet(), "mlp")
    odd = replace(job.learner, network=nn.Softplus())
    assert "not a chain" in SHARED.why_unsupported(replace(job, learner=odd))
