"""The first block's kernel equals the loop, and the path without it, for shapes of all kinds."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from fedmaml import native
from fedmaml.computing.engines import ENGINES, LOOP, Job, Rows
from fedmaml.computing.engines.factored import block, images
from fedmaml.computing.engines.factored.first_block import Patches
from fedmaml.computing.engines.layers import layers_of
from fedmaml.core import losses, seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem
from fedmaml.core.params import flatten
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.strategies import FOMAML

FACTORED = ENGINES["factored"]


@pytest.fixture(autouse=True)
def kernels() -> None:
    if reason := native.missing():
        pytest.skip(reason)


@pytest.fixture
def forget_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return a function after which there are no kernels, as without a compiler."""

    def forget() -> None:
        monkeypatch.setenv("FEDMAML_NATIVE", "0")
        native._library.cache_clear()

    yield forget
    native._library.cache_clear()


def network(convolution: nn.Conv2d, height: int, width: int, pool: int = 2) -> nn.Module:
    """Return a block and a linear layer; scales and shifts are of either sign."""
    norm = nn.BatchNorm2d(convolution.out_channels, track_running_stats=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    body = nn.Sequential(convolution, norm, nn.ReLU(), nn.MaxPool2d(pool), nn.Flatten())
    features = body(torch.zeros(2, convolution.in_channels, height, width)).shape[1]
    return nn.Sequential(*body, nn.Linear(features, 3))


def job_of(make: Callable[[], nn.Module], dtype: torch.dtype) -> Job:
    problem = Problem(make, losses.cross_entropy, (), classes=3, dtype=dtype)
    strategy = FOMAML(inner=GradientSteps(lr=0.1, steps=2))
    start = strategy.build(problem, seeding.generator(0, "init"))
    return Job(strategy, start.learner, start.state.meta, "stack")


def updates(job: Job, shape: tuple[int, ...], dtype: torch.dtype, engine: str) -> Tensor:
    """Return the updates of three clients whose images have a mean far from zero."""
    rng = seeding.generator(0, "images")
    x = 3 + torch.randn(3, 9, *shape, generator=rng, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 3, (3, 9), generator=rng)
    tasks = Task(Batch(x[:, :4], y[:, :4]), Batch(x[:, 4:], y[:, 4:]))
    chosen = LOOP if engine == "loop" else FACTORED
    parts = chosen.compute(job, [TaskGroup((0, 1, 2), tasks)], {0: {}, 1: {}, 2: {}})
    rows = [part.results.update["theta"] for part in parts if isinstance(part, Rows)]
    return torch.cat([flatten(update, 1) for update in rows])


def prepared(job: Job, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | Patches:
    layers = layers_of(job.learner.network)
    assert not isinstance(layers, str)
    blocks = images.in_blocks(images.pooled_first(layers))
    return images.prepared(blocks, job.meta["theta"], torch.zeros(2, *shape, dtype=dtype))


TAKEN: dict[str, tuple[Callable[[], nn.Conv2d], tuple[int, int, int]]] = {
    "a row and a column past the last window": (lambda: nn.Conv2d(1, 5, 3, padding=1), (1, 7, 5)),
    "kernel that is no square": (lambda: nn.Conv2d(2, 5, (3, 2), padding=(1, 0)), (2, 9, 8)),
    "one tap, no bias": (lambda: nn.Conv2d(3, 5, 1, bias=False), (3, 4, 6)),
    "more filters than lanes": (lambda: nn.Conv2d(1, 70, 5, padding=2), (1, 6, 6)),
    "as many taps as it takes": (lambda: nn.Conv2d(2, 33, 4), (2, 7, 7)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", TAKEN)
def test_equals_the_loop_and_the_path_without_kernels(
    case: str, dtype: torch.dtype, forget_kernels: Callable[[], None]
) -> None:
    convolution, shape = TAKEN[case]
    job = job_of(lambda: network(convolution(), *shape[1:]), dtype)
    assert isinstance(prepared(job, shape, dtype), Patches)
    assert {float(sign) for sign in job.meta["theta"]["1.weight"].sign()} == {-1.0, 1.0}
    expected = updates(job, shape, dtype, "loop")
    allowed = (1e-12 if dtype == torch.float64 else 2e-5) * expected.norm()
    assert (updates(job, shape, dtype, "factored") - expected).norm() <= allowed
    forget_kernels()
    assert not isinstance(prepared(job, shape, dtype), Patches)
    assert (updates(job, shape, dtype, "factored") - expected).norm() <= allowed


@pytest.mark.parametrize(
    ("convolution", "shape", "pool"),
    [
        (lambda: nn.Conv2d(1, 4, 3, stride=2), (1, 9, 9), 2),
        (lambda: nn.Conv2d(1, 4, 3), (1, 9, 9), 3),
        (lambda: nn.Conv2d(4, 4, 3), (4, 6, 6), 2),  # 36 taps
    ],
)
def test_other_blocks_take_the_common_path(
    convolution: Callable[[], nn.Conv2d], shape: tuple[int, int, int], pool: int
) -> None:
    dtype = torch.float64
    job = job_of(lambda: network(convolution(), *shape[1:], pool), dtype)
    assert not isinstance(prepared(job, shape, dtype), Patches)
    expected = updates(job, shape, dtype, "loop")
    assert (updates(job, shape, dtype, "factored") - expected).norm() <= 1e-12 * expected.norm()


def test_a_scale_of_zero_takes_the_common_path() -> None:
    def zero() -> nn.Module:
        made = network(nn.Conv2d(1, 4, 3), 8, 8)
        nn.init.zeros_(made[1].weight[1:2])  # type: ignore[index]
        return made

    job = job_of(zero, torch.float64)
    expected = updates(job, (1, 8, 8), torch.float64, "loop")
    got = updates(job, (1, 8, 8), torch.float64, "factored")
    assert (got - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_statistics_keep_their_digits_far_from_zero(mean: float) -> None:
    x = torch.randn(20, 33, 5, 4, generator=seeding.generator(0, "statistics")) + mean
    x = images.channels_last(x)
    of_channel, variance = block.statistics(x)
    exact = x.double()
    torch.testing.assert_close(of_channel.double(), exact.mean((0, 2, 3)), rtol=1e-7, atol=1e-8)
    expected = exact.var((0, 2, 3), correction=0)
    torch.testing.assert_close(variance.double(), expected, rtol=2e-7, atol=0)
