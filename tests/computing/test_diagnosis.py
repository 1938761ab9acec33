"""Networks that a strategy cannot differentiate, or that cannot be vmapped, are named at once."""

from collections.abc import Callable
from dataclasses import field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedmaml.computing.diagnosis import (
    Subject,
    check_derivatives,
    hidden_randomness,
    what_prevents_vmap,
)
from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Problem, make_learner
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task
from fedmaml.preflight import preflight
from fedmaml.simulations.scenarios import CATALOGUE
from fedmaml.strategies import CATALOGUE as CATALOGUE_OF
from fedmaml.strategies import MAML
from fedmaml.strategies.base import Facts, MetaStrategy


class OnceCube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class DetachedCube(OnceCube):
    generate_vmap_rule = False

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (3 * ctx.saved_tensors[0] ** 2 * gradient).detach()


class OldCube(torch.autograd.Function):  # before torch.func: no setup_context
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class RunningMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return x - self.mean


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x


class Outer(nn.Module):
    """The culprit is no module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(OnceCube.apply(self.body(x)))


def subject_of(network: Callable[[], nn.Module], x: Tensor) -> Subject:
    learner, params = make_learner(Problem(network, cross_entropy, ()), seeding.generator(0))
    batch = Batch(x, torch.zeros(len(x), dtype=torch.int64))
    return Subject(MAML(), learner, {"theta": params}, {}, Task(batch, batch))


def branch(x: Tensor) -> Tensor:
    return x if x.sum().item() > -1e9 else -x


def chain(middle: nn.Module) -> Callable[[], nn.Module]:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), middle)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    return Network


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Preflight of digits with another network."""

    def run(network: Callable[[], nn.Module], strategy: str, **settings: Any) -> None:
        problem = Problem(network, cross_entropy, (ACCURACY,), classes=10)
        monkeypatch.setattr(CATALOGUE["digits"], "problem", lambda _: problem)
        preflight(resolve({"scenario": "digits", "strategy": strategy, **settings}))

    return run


@pytest.mark.parametrize("cube", [OnceCube, DetachedCube])
@pytest.mark.parametrize("strategy", ["maml", "meta_sgd"])
def test_module_without_second_derivative_is_named(
    run: Callable[..., None], strategy: str, cube: type
) -> None:
    label = CATALOGUE_OF[strategy].facts.label
    message = (
        rf"module 'body\.2' \(Calls\) has no second derivative .*and {label} differentiates .*"
        r"use fomaml or reptile.*or replace the module"
    )
    with pytest.raises(UnsupportedProblemError, match=message):
        run(chain(Calls(cube.apply)), strategy)
    run(chain(Calls(cube.apply)), "fomaml")  # which takes none


def test_forward_pass_without_second_derivative_is_named(run: Callable[..., None]) -> None:
    with pytest.raises(
        UnsupportedProblemError, match=r"the network \(Outer\) itself has no second"
    ):
        run(Outer, "maml")


def test_module_whose_state_changes_its_results_is_named(run: Callable[..., None]) -> None:
    message = (
        r"module 'body\.2' \(RunningMean\) changes with every call, .*'body\.2\.mean'.*in place"
    )
    for strategy in ("maml", "fomaml", "fedavg"):
        with pytest.raises(UnsupportedProblemError, match=message):
            run(chain(RunningMean()), strategy)


@pytest.mark.parametrize("function", [branch, DetachedCube.apply, OldCube.apply])
def test_module_that_cannot_be_vmapped_is_named_and_the_run_goes_on(
    run: Callable[..., None], function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run(chain(Calls(function)), "fomaml")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "computed one by one" in warning
    assert "module 'body.2' (Calls): RuntimeError: " in warning
    assert "torch.where" in warning
    caplog.clear()
    run(chain(Calls(function)), "fomaml", engine="loop")  # nobody tries
    assert not caplog.records


def test_state_that_clients_would_share_is_named(
    run: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    run(chain(Counter()), "fomaml", engine="loop")
    assert "the network changes buffer 'body.2.calls' in its forward pass" in caplog.text


@pytest.mark.parametrize(
    "middle", [nn.ReLU(), nn.GELU(), nn.Softplus(), nn.LayerNorm(32), nn.Hardtanh(), nn.Identity()]
)
def test_sound_modules_pass(
    run: Callable[..., None], middle: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    for strategy in ("maml", "meta_sgd", "protonet", "fedrep"):
        run(chain(middle), strategy)
    assert not caplog.records


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lambda: MLP((4, 5, 3)), (6, 4)),
        (lambda: Conv4(1, 16, 3, filters=4), (6, 1, 16, 16)),
        (lambda: Conv4(1, 16, 3, filters=4, norm="batch"), (6, 1, 16, 16)),
    ],
)
def test_sound_networks_pass(network: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    for x in (seeding.normal(1, range(1), *shape)[0].float(), torch.zeros(shape)):
        subject = subject_of(network, x)
        check_derivatives(subject)  # zeros lie on the kinks of relu and pooling
        assert what_prevents_vmap(subject) == ""


def test_a_gru_takes_no_shared_weights_under_vmap() -> None:
    """Alone it takes weights of each client, but the first inner step of all is from theta."""
    x = seeding.normal(1, range(1), 6, 5, 4)[0].float()
    subject = subject_of(lambda: nn.GRU(4, 3, batch_first=True), x)
    check_derivatives(subject)
    reason = what_prevents_vmap(subject)
    assert reason.startswith("the network (GRU) itself: RuntimeError: output with shape")


def test_fused_attention_is_named_as_pytorch_cannot_differentiate_it_twice() -> None:
    def network() -> nn.Module:
        return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    subject = subject_of(network, seeding.normal(1, range(6), 5, 8).float())
    with pytest.raises(UnsupportedProblemError, match=r"'self_attn' \(MultiheadAttention\) has no"):
        check_derivatives(subject)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        check_derivatives(subject)


# --- hidden randomness ------------------------------------------------------------------------


class HiddenDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.att = nn.MultiheadAttention(32, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.att(x[:, None], x[:, None], x[:, None])[0][:, 0]


class NumpyNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + float(np.random.default_rng().normal())


@pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (HiddenDropout(), r"module 'body\.2' \(HiddenDropout\)"),
        (Attention(), r"module 'body\.2\.att' \(MultiheadAttention\)"),
        (NumpyNoise(), r"module 'body\.2' \(NumpyNoise\)"),
    ],
)
def test_a_module_that_draws_random_numbers_is_refused_by_name(
    run: Callable[..., None], module: nn.Module, name: str, engine: str
) -> None:
    message = name + r" draws random numbers of its own.*Problem\(draws=\.\.\.\)"
    with pytest.raises(UnsupportedProblemError, match=message):
        run(chain(module), "fomaml", engine=engine)


def test_a_client_update_that_draws_random_numbers_is_named() -> None:
    @settings
    class Noisy(MetaStrategy):
        facts = Facts("Noisy")
        inner: GradientSteps = field(default_factory=GradientSteps)
        build, adapt, server_update = MAML.build, MAML.adapt, MAML.server_update

        def client_update(self, *args: Any) -> Any:
            sent = MAML().client_update(*args)
            return sent._replace(weight=sent.weight + torch.rand(()))

    subject = subject_of(lambda: MLP((4, 5, 3)), torch.ones(6, 4))
    before = torch.get_rng_state()
    assert hidden_randomness(subject) == ""
    assert torch.equal(torch.get_rng_state(), before)
    assert hidden_randomness(replace(subject, strategy=Noisy())) == "client_update of Noisy"
