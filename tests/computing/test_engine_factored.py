"""The factored engine equals the loop, for every kind of layer, and forms no weights per client."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.computing.engines import ENGINES, LOOP, Job, Rows, Total, plan
from fedmaml.computing.engines.factored import images
from fedmaml.computing.engines.factored.linear import First, LowRank, Own, kind_of
from fedmaml.computing.engines.factored.updates import Product, Sent, Sum
from fedmaml.computing.engines.layers import BatchNorm2d, Linear
from fedmaml.core import losses, seeding
from fedmaml.core.aggregation import exact_sum
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.meter import measure
from fedmaml.core.networks import MLP, Conv4, LinearModel
from fedmaml.core.params import Params, count_entries, flatten
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.strategies import FOMAML, MAML, FedAvg, FedProx, MetaSGD, Reptile
from fedmaml.strategies.base import MetaStrategy

FACTORED = ENGINES["factored"]


def bare_mlp(*sizes: int) -> nn.Module:
    """Return layers without biases."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def small_cnn() -> nn.Module:
    """Return the network of LEAF's FEMNIST in miniature."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 5, padding=2, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(54, 40), nn.ReLU(), nn.Linear(40, 3),
    )  # fmt: skip


def odd_cnn() -> nn.Module:
    """Return strides, activations and an order that the others do not have."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 5, (3, 1), padding=(1, 0)), nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2), nn.Tanh(),
        nn.Flatten(), nn.Linear(20, 3), nn.Tanh(),
    )  # fmt: skip


def odd_groups() -> nn.Module:
    """Return group normalisation without a pool after it, of one group, and of none together."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(1, 4), nn.Tanh(),
        nn.Conv2d(4, 6, 3, bias=False), nn.GroupNorm(6, 6, eps=0.1), nn.ReLU(), nn.GroupNorm(3, 6),
        nn.Flatten(), nn.Linear(54, 3),
    )  # fmt: skip


def negative_scales(norm: Literal["group", "batch"] = "batch") -> nn.Module:
    """Return normalisation whose scales are of either sign, or zero."""
    network = Conv4(1 if norm == "batch" else 3, 16, 3, filters=6, norm=norm)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            with torch.no_grad():
                module.weight[2] = 0
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "wide": (lambda: MLP((30, 64, 64, 3), torch.relu), (30,)),
    "tanh": (lambda: MLP((30, 64, 64, 3), torch.tanh), (30,)),
    "narrow": (lambda: MLP((2, 5, 5, 3), torch.tanh), (2,)),
    "bare": (lambda: bare_mlp(30, 64, 64, 3), (5, 6)),
    "linear": (lambda: LinearModel(6, 3), (6,)),
    "cnn": (small_cnn, (1, 12, 12)),
    "odd cnn": (odd_cnn, (3, 11, 11)),
    "conv4": (lambda: Conv4(3, 16, 3, filters=6, norm="batch"), (3, 16, 16)),
    "conv4 of either sign": (negative_scales, (1, 16, 16)),
    "conv4 by groups": (lambda: Conv4(1, 16, 3, filters=6), (1, 16, 16)),
    "conv4 by groups of either sign": (lambda: negative_scales("group"), (3, 16, 16)),
    "odd groups": (odd_groups, (3, 11, 11)),
}
STEPS = (0, 1, 3)


def group_of(
    features: tuple[int, ...], dtype: torch.dtype, clients: int = 5, rows: tuple[int, int] = (4, 6)
) -> TaskGroup:
    rng = seeding.generator(0, "tasks")
    count = sum(rows)
    x = torch.randn(clients, count, *features, generator=rng, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 3, (clients, count), generator=rng)
    cut = rows[0]
    tasks = Task(Batch(x[:, :cut], y[:, :cut]), Batch(x[:, cut:], y[:, cut:]))
    return TaskGroup(tuple(range(10, 10 + clients)), tasks)


def job_of(
    strategy: MetaStrategy,
    network: Callable[[], nn.Module],
    dtype: torch.dtype = torch.float64,
    l2: float = 0.01,
    loss: Callable[[Tensor, Tensor], Tensor] = losses.cross_entropy,
) -> Job:
    problem = Problem(network, loss, (), classes=3, l2=l2, dtype=dtype)
    start = strategy.build(problem, seeding.generator(0, "init"))
    return Job(strategy, start.learner, start.state.meta, "stack")


def rows_of(parts: list[Rows | Total]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return updates, weights and metrics of all clients."""
    rows = [part for part in parts if isinstance(part, Rows)]
    assert len(rows) == len(parts)
    return (
        torch.cat([flatten(part.results.update["theta"], 1) for part in rows]),
        torch.cat([part.results.weight for part in rows]),
        {
            name: torch.cat([part.results.metrics[name] for part in rows])
            for name in rows[0].results.metrics
        },
    )


IMAGES = [name for name, (_, features) in NETWORKS.items() if len(features) == 3]


@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("name", IMAGES)
def test_second_order_equals_the_loop(name: str, l2: float) -> None:
    network, features = NETWORKS[name]
    group = group_of(features, torch.float64, clients=2)
    memories: dict[int, Params] = {client: {} for client in group.clients}
    for steps in STEPS:
        job = job_of(MAML(inner=GradientSteps(lr=0.1, steps=steps)), network, l2=l2)
        assert FACTORED.why_unsupported(job) == ""
        expected, weight, numbers = rows_of(list(LOOP.compute(job, [group], memories)))
        found, own_weight, own_numbers = rows_of(list(FACTORED.compute(job, [group], memories)))
        assert (found - expected).norm() <= 1e-12 * expected.norm()
        assert torch.equal(own_weight, weight)
        for metric, values in numbers.items():
            torch.testing.assert_close(own_numbers[metric], values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("largest", [1e-2, 1e3])
@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize(
    ("clients", "rank", "outputs", "inputs"),
    [
        (1, 1, 1, 1),
        (1, 0, 3, 5),
        (3, 5, 37, 1100),
        (5, 4, 16, 513),
        (4, 3, 17, 257),
        (2, 3, 1, 2049),
    ],
)
def test_products_are_formed_right_and_added_exactly(
    clients: int,
    rank: int,
    outputs: int,
    inputs: int,
    based: bool,
    largest: float,
    dtype: torch.dtype,
) -> None:
    rng = torch.Generator().manual_seed(0)
    left = largest * torch.randn(clients, rank, outputs, generator=rng, dtype=dtype)
    right = torch.randn(clients, rank, inputs, generator=rng, dtype=dtype)
    base = torch.randn(outputs, inputs, generator=rng, dtype=dtype) if based else None
    product = Product("w", left, right, 0.3, base)
    formed = torch.cat(list(product.tiles()), 1)
    expected = 0.3 * torch.einsum("cro,cri->coi", left.double(), right.double())
    expected = (expected if base is None else expected + base.double()).flatten(1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert (formed - expected).abs().max() <= tolerance * expected.abs().max()
    assert (product.bound() * (1 + 1e-6) >= formed.abs().amax(1)).all()
    weight = torch.randint(1, 99, (clients,), generator=rng).double()
    total = Sum({"w": torch.zeros(outputs, inputs, dtype=dtype)})
    total.add(range(clients), Sent([product], weight, {}))
    (limbs,) = (value.limbs for value in total.result().sums.values())
    assert torch.equal(limbs, exact_sum(formed, weight).limbs)


def check(job: Job, group: TaskGroup, tolerance: float, flips: int = 0) -> None:
    """Hold the engine against the loop, and its sum against its own updates.

    Args:
        job: What to compute.
        group: For whom.
        tolerance: Relative to the update.
        flips: How many clients may differ because rounding switched a ReLU, or a pool's choice.
    """
    memories: dict[int, Params] = {client: {} for client in group.clients}
    assert FACTORED.why_unsupported(job) == ""
    expected, weight, metrics = rows_of(list(LOOP.compute(job, [group], memories)))
    own, own_weight, own_metrics = rows_of(list(FACTORED.compute(job, [group], memories)))
    assert torch.equal(own_weight, weight)
    allowed = tolerance * expected.norm(dim=1).clamp_min(1e-3)
    if not isinstance(job.strategy, FOMAML):  # the loop rounds phi, and so theta - phi
        theta = flatten(job.meta["theta"])
        allowed += torch.finfo(theta.dtype).eps * theta.norm()
    same = (own - expected).norm(dim=1) <= allowed
    assert int((~same).sum()) <= flips
    for name, values in metrics.items():
        assert own_metrics[name][same].tolist() == pytest.approx(
            values[same].tolist(), rel=10 * tolerance, abs=10 * tolerance
        )
    (total,) = FACTORED.compute(replace(job, form="sum"), [group], memories)
    assert isinstance(total, Total)
    assert total.clients == group.clients
    exact = exact_sum(own, weight)
    assert torch.equal(total.sums["theta"].limbs, exact.limbs)
    assert {name: values.tolist() for name, values in total.metrics.items()} == {
        name: values.tolist() for name, values in own_metrics.items()
    }


@pytest.mark.parametrize(
    ("strategy", "dtype"),
    [
        (FOMAML, torch.float64),
        (FOMAML, torch.float32),
        (Reptile, torch.float64),
        pytest.param(FedProx, torch.float64, marks=pytest.mark.slow),
        pytest.param(Reptile, torch.float32, marks=pytest.mark.slow),
        pytest.param(FedProx, torch.float32, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_loop(
    dtype: torch.dtype, name: str, strategy: type[FOMAML | Reptile | FedProx]
) -> None:
    network, features = NETWORKS[name]
    for steps in STEPS:
        for l2 in (0.0, 0.01):
            job = job_of(strategy(inner=GradientSteps(lr=0.1, steps=steps)), network, dtype, l2)
            exact = dtype == torch.float64
            # Normalised numbers crowd around zero: one client in sixty meets a switch in float32.
            flips = 1 if "conv4" in name and not exact else 0
            check(job, group_of(features, dtype), 1e-12 if exact else 1e-5, flips)


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        (losses.squared_error, 2),
        (losses.half_squared_error, 1),
        (losses.binary_cross_entropy, 1),
        (losses.cross_entropy, 3),
    ],
)
@pytest.mark.parametrize("strategy", [FOMAML, FedAvg])
def test_every_loss(
    strategy: type[FOMAML | FedAvg], loss: Callable[[Tensor, Tensor], Tensor], outputs: int
) -> None:
    group = group_of((30,), torch.float64)
    if loss is not losses.cross_entropy:

        def targets(batch: Batch) -> Batch:
            if loss is losses.squared_error:
                return Batch(batch.x, batch.x[..., :2].sin())
            return Batch(batch.x, (batch.x[..., 0] > 0).double())

        group = TaskGroup(group.clients, Task(*map(targets, group.tasks)))
    steps = GradientSteps(lr=0.1, steps=3)
    job = job_of(strategy(inner=steps), lambda: MLP((30, 40, outputs)), loss=loss)
    check(job, group, 1e-12)


def test_kind_of_layer_follows_rank_and_place() -> None:
    wide, head = Linear("w", "b", 1000, 1000), Linear("w", "b", 1000, 10)
    assert kind_of(wide, 5, 16, reads_examples=False) is LowRank
    assert kind_of(wide, 5, 200, reads_examples=False) is Own
    assert kind_of(head, 5, 16, reads_examples=False) is Own
    assert kind_of(head, 5, 16, reads_examples=True) is First
    assert kind_of(head, 5, 16_000, reads_examples=True) is Own


@pytest.mark.parametrize("name", ["wide", "conv4"])
def test_groups_of_unequal_shape_make_one_sum(name: str) -> None:
    network, features = NETWORKS[name]
    job = replace(job_of(FOMAML(), network, torch.float32), form="sum")
    one = group_of(features, torch.float32)
    other = group_of(features, torch.float32, 2, (3, 5))
    other = TaskGroup((1, 2), other.tasks)
    (both,) = FACTORED.compute(job, [one, other], {})
    (first,), (second,) = (FACTORED.compute(job, [group], {}) for group in (one, other))
    assert isinstance(both, Total)
    assert isinstance(first, Total)
    assert isinstance(second, Total)
    assert both.clients == first.clients + second.clients
    together = first.sums["theta"] + second.sums["theta"]
    assert torch.equal(both.sums["theta"].limbs, together.limbs)
    assert both.sums["theta"].weight == 5 * 6 + 2 * 5


@pytest.mark.parametrize(
    ("strategy", "value"),
    [
        (FOMAML, float("nan")),
        (FOMAML, 1e30),
        (Reptile, float("inf")),
        pytest.param(FOMAML, float("inf"), marks=pytest.mark.slow),
        pytest.param(Reptile, float("nan"), marks=pytest.mark.slow),
        pytest.param(Reptile, 1e30, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_unsound_client_is_in_no_part_of_the_sum(
    name: str, strategy: type[FOMAML | Reptile], value: float
) -> None:
    network, features = NETWORKS[name]
    job = replace(job_of(strategy(), network, torch.float32), form="sum")
    group = group_of(features, torch.float32)
    for batch in group.tasks:
        batch.x[2] = value
    (total,) = FACTORED.compute(job, [group], {})
    assert isinstance(total, Total)
    spoiled = group.clients[2]
    if not total.unsound:  # tanh or normalisation made small numbers of large ones
        assert name in ("tanh", "narrow", "odd cnn", "odd groups") or name.startswith("conv4")
        assert value == 1e30
        return
    assert total.unsound == (spoiled,)
    assert spoiled not in total.clients
    assert total.sums["theta"].limbs.isfinite().all()
    assert len(total.weight) == len(total.metrics["loss_after"]) == 4


def test_memory_does_not_grow_with_clients_times_parameters() -> None:
    job = replace(job_of(FOMAML(), lambda: MLP((64, 1200, 1200, 3)), torch.float32), form="sum")
    entries = count_entries(job.meta)

    def peak(clients: int) -> int:
        group = group_of((64,), torch.float32, clients, (4, 4))
        return measure(lambda: list(FACTORED.compute(job, [group], {}))).peak_bytes

    few, many = peak(8), peak(32)
    assert many - few < 24 * 4 * entries / 5  # factors: rank 20 of 1200
    assert few < 3 * 8 * entries + 32 * 2**20  # the sum itself, and tiles


@pytest.mark.parametrize("strategy", [MAML, MetaSGD])
def test_large_convolutions_are_never_taken_together_unasked(strategy: type[MetaStrategy]) -> None:
    chosen = plan("auto", job_of(strategy(), lambda: Conv4(1, 16, 3, filters=32)))
    assert chosen.engine.name == ("factored" if strategy is MAML else "loop")
    small = plan("auto", job_of(strategy(), lambda: Conv4(1, 16, 3, filters=4)))
    assert small.engine.name == "vmap"


# --- what it does not take ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "network", "text"),
    [
        (MAML(), lambda: MLP((4, 5, 3)), "second derivatives"),
        (MetaSGD(), lambda: MLP((4, 5, 3)), "by one rate, and Meta-SGD does not"),
        (
            FOMAML(),
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2)),
            "InstanceNorm2d",
        ),
        (FOMAML(), lambda: nn.Sequential(nn.Conv2d(1, 2, 3)), "not flattened"),
        (FOMAML(), lambda: nn.Sequential(nn.Tanh(), nn.Linear(2, 2)), "before the first"),
        (FOMAML(), lambda: nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1)), "comes before"),
    ],
)
def test_refusal_says_why(
    strategy: MetaStrategy, network: Callable[[], nn.Module], text: str
) -> None:
    assert text in FACTORED.why_unsupported(job_of(strategy, network))


def test_refuses_a_loss_that_it_does_not_know() -> None:
    job = job_of(FOMAML(), lambda: MLP((4, 5, 3)), loss=lambda p, y: p.sum(1) - y)
    assert "fedmaml.core.losses" in FACTORED.why_unsupported(job)


def test_small_convolutions_are_left_to_others() -> None:
    assert "do not pay below" in FACTORED.why_slow(job_of(FOMAML(), small_cnn))
    assert FACTORED.why_slow(job_of(FOMAML(), lambda: MLP((4, 5, 3)))) == ""
    large = job_of(FOMAML(), lambda: Conv4(1, 16, 3, norm="batch"))
    assert plan("auto", large).engine is FACTORED


def test_large_networks_are_not_left_to_fused() -> None:
    large = job_of(FOMAML(), lambda: MLP((64, 400, 400, 3)))
    assert plan("auto", large).engine is FACTORED
    assert plan("auto", replace(large, strategy=MAML())).engine is not FACTORED


def test_batch_statistics_of_many_pixels_keep_their_digits() -> None:
    x = 3 + torch.randn(75, 4, 28, 28, generator=seeding.generator(0, "pixels"))
    params = {"w": torch.ones(4), "b": torch.zeros(4)}
    y, _ = images.forward([BatchNorm2d("w", "b", 1e-5)], params, x)
    exact = F.batch_norm(x.double(), None, None, training=True, eps=1e-5)
    assert (y - exact).norm() <= 1e-6 * exact.norm()


def test_batch_statistics_of_one_number_raise_as_in_the_loop() -> None:
    def network() -> nn.Module:
        norm = nn.BatchNorm2d(4, track_running_stats=False)
        return nn.Sequential(nn.Conv2d(3, 4, 5), norm, nn.Flatten(), nn.Linear(4, 3))

    job, group = job_of(FOMAML(), network), group_of((3, 5, 5), torch.float64, 2, (1, 4))
    for engine in (LOOP, FACTORED):
        with pytest.raises(ValueError, match="channel"):
            list(engine.compute(job, [group], {client: {} for client in group.clients}))
