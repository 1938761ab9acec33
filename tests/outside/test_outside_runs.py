"""Strategies and networks of this folder run as those of the package do, by name alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedmaml.computing.engines import ENGINES
from fedmaml.computing.engines.padding import merge_groups
from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.preflight import preflight
from fedmaml.running import execute
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES
from tests.catalogue import FOUNDING, slow_unless
from tests.conftest import REGRESSORS
from tests.contracts.test_trees import computed, job_of
from tests.outside.catalogue import NEED_CLASSES, OUTSIDE, OUTSIDE_SCENARIOS
from tests.outside.graph_network import MessagePassing, neighbours

OWN_NETWORKS = ("messages", "recurrent_rollouts")
CASES = [
    *((scenario, strategy) for scenario in OUTSIDE_SCENARIOS for strategy in OUTSIDE),
    *((scenario, strategy) for scenario in OWN_NETWORKS for strategy in STRATEGIES),
]
CASES = [
    slow_unless(case[1] in (*FOUNDING, *OUTSIDE), *case)
    for case in CASES
    if (case[0] != "nodes" or case[1] not in NEED_CLASSES) and case[1] not in REGRESSORS
]


@pytest.mark.parametrize(("scenario", "strategy"), CASES)
def test_many_clients_at_once_equal_one_by_one(scenario: str, strategy: str) -> None:
    job, memories, groups = job_of(scenario, strategy)
    one_by_one = computed("loop", job, groups, memories)
    together = computed("vmap", job, groups, memories)
    assert set(together) == set(one_by_one) == set(range(9))
    for client, values in one_by_one.items():
        for single, batched in zip(values, together[client], strict=True):
            torch.testing.assert_close(batched, single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strategy", OUTSIDE)
def test_padded_clients_share_a_computation(strategy: str) -> None:
    job, memories, groups = job_of("graphs", strategy)
    assert len(list(merge_groups(job, groups, memories))) < len(groups) == 9


@pytest.mark.parametrize("strategy", OUTSIDE)
def test_hand_written_engines_refuse_it(strategy: str) -> None:
    job, _, _ = job_of("digits", strategy)
    for engine in ("fused", "factored"):
        assert STRATEGIES[strategy].facts.label in ENGINES[engine].why_unsupported(job)


@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [("rollouts" if name == "recurrent_policy" else "graphs", name) for name in OUTSIDE],
)
def test_nodes_change_no_bit(scenario: str, strategy: str, tmp_path: Path) -> None:
    hashes = set()
    for nodes in (1, 4):
        config = resolve(
            {"scenario": scenario, "strategy": strategy, "nodes": nodes, "engine": "loop"}
        )
        summary = execute(config, tmp_path / str(nodes))
        assert summary["rejected_replies"] == 0
        assert summary["clients_evaluated"] == 4
        assert summary["metric"]["after"] is not None
        hashes.add(summary["theta_sha256"])
    assert len(hashes) == 1


@pytest.mark.parametrize("strategy", NEED_CLASSES)
def test_problems_without_classes_are_refused(strategy: str) -> None:
    with pytest.raises(UnsupportedProblemError, match=rf"{strategy} .*Problem\(classes="):
        preflight(resolve({"scenario": "nodes", "strategy": strategy}))


# --- second derivatives -----------------------------------------------------------------------


class OnceCube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return OnceCube.apply(x)


class CubicHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 8)
        self.head = nn.Sequential(nn.Linear(8, 8), Cube(), nn.Linear(8, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize("strategy", [*OUTSIDE, "ditto", "anil", "cavia", "imaml"])
def test_a_network_without_second_derivatives_is_refused_where_they_are_taken(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(CubicHead, cross_entropy, (ACCURACY,), classes=10)
    monkeypatch.setattr(SCENARIOS["digits"], "problem", lambda _: problem)
    config = resolve({"scenario": "digits", "strategy": strategy})
    if strategy not in ("anil", "cavia", "imaml"):
        preflight(config)
        return
    label = STRATEGIES[strategy].facts.label
    message = rf"module 'head\.1' \(Cube\) has no second derivative .*and {label} differentiates"
    with pytest.raises(UnsupportedProblemError, match=message):
        preflight(config)


# --- networks ---------------------------------------------------------------------------------


def a_graph(nodes: int) -> dict[str, Tensor]:
    edges = torch.tensor([[0, 1], [1, 2], [2, 0], [2, 3]])
    values = seeding.normal(seeding.key(0), [0], 4, 3)[0]
    spare = torch.full((nodes - 4, 3), 7.0, dtype=torch.float64)
    mask = torch.arange(nodes) < 4
    return {
        "nodes": torch.cat([values, spare])[None],
        "edges": torch.cat([edges, torch.tensor([[nodes - 1, 1]] * (nodes - 4)).view(-1, 2)])[
            None
        ].long(),
        "mask": mask.double()[None],
    }


def test_messages_are_sums_over_neighbours() -> None:
    ends = torch.tensor([[[0, 1], [2, 1], [1, 0]]])
    values = torch.tensor([[[1.0], [10.0], [100.0]]])
    assert neighbours(values, ends).flatten().tolist() == [10.0, 101.0, 0.0]


def test_the_graph_network_ignores_padding_and_the_order_of_nodes() -> None:
    torch.manual_seed(0)
    network = MessagePassing((3, 8, 8, 8)).double()
    plain = network(a_graph(4))
    torch.testing.assert_close(network(a_graph(6)), plain)
    order = torch.tensor([2, 0, 3, 1])
    graph = a_graph(4)
    turned = {
        "nodes": graph["nodes"][:, order],
        "edges": order.argsort()[graph["edges"]],
        "mask": graph["mask"][:, order],
    }
    torch.testing.assert_close(network(turned), plain)
    moved = graph | {"edges": graph["edges"].flip(1) * 0}
    assert not torch.allclose(network(moved), plain)


def test_a_gru_of_pytorch_learns_client_by_client(tmp_path: Path) -> None:
    config = resolve(
        {"scenario": "recurrent_rollouts", "task.network": "gru", "strategy": "fomaml",
         "engine": "loop", "rounds": 15, "inner.lr": 0.5, "outer.lr": 0.05}
    )  # fmt: skip
    summary = execute(config, tmp_path / "run")
    assert summary["rejected_replies"] == 0
    assert list(summary["engines"]["updates"]) == ["loop"]
    assert summary["metric"]["after"] > 0.6


def test_the_module_that_cannot_be_computed_for_many_clients_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """``nn.GRU`` takes weights of each client under vmap, but no shared ones for several inputs."""
    preflight(
        resolve({"scenario": "recurrent_rollouts", "task.network": "gru", "strategy": "fomaml"})
    )
    assert "module 'body' (GRU): RuntimeError" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [("rollouts", "recurrent_policy"), ("messages", "anil"), ("recurrent_rollouts", "fomaml")],
)
def test_it_learns(scenario: str, strategy: str, tmp_path: Path) -> None:
    config = resolve({"scenario": scenario, "strategy": strategy, "rounds": 30, "outer.lr": 0.05})
    summary = execute(config, tmp_path / "run")
    assert summary["metric"]["after"] > 0.6  # of 1, and 1/3 by chance
