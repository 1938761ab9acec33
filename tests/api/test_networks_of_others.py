"""Networks as people have them: each runs, or is refused by name with what to write instead."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedmaml as fm
from fedmaml.core import learner, networks, seeding
from fedmaml.core.errors import UnsupportedProblemError

pytestmark = pytest.mark.usefixtures("_catalogues_as_before")

ROWS, FEATURES = 4, 6


class Net(nn.Module):
    """Two layers, and a module between them."""

    def __init__(self, between: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.body = nn.Linear(ROWS * FEATURES, 8)
        self.between = between()
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(torch.tanh(self.body(x.flatten(1)))))


class Recurrent(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layer = layer()
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        states = self.layer(x)
        return self.head((states if isinstance(states, Tensor) else states[0])[:, -1])


class Attentive(nn.Module):
    """The mean of a layer of attention."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layer = layer()
        self.head = nn.Linear(FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        given = {"need_weights": False} if isinstance(self.layer, nn.MultiheadAttention) else {}
        seen = self.layer(x, x, x, **given)
        return self.head((seen if isinstance(seen, Tensor) else seen[0]).mean(1))


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(ROWS * FEATURES, ROWS * FEATURES)
        self.two = nn.Linear(ROWS * FEATURES, ROWS * FEATURES)
        self.two.weight = self.one.weight
        self.head = nn.Linear(ROWS * FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x.flatten(1))))))


def frozen() -> Net:
    net = Net()
    net.body.requires_grad_(False)
    return net


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., fm.RunResult]:
    rng = np.random.default_rng(0)
    data = {
        f"c{client}": (rng.normal(size=(12, ROWS, FEATURES)), rng.integers(2, size=12))
        for client in range(6)
    }

    def made(network: Callable[[], nn.Module], strategy: str = "maml") -> fm.RunResult:
        scenario = fm.from_clients(data, network=network)
        return fm.run(scenario, strategy, rounds=2, out=tmp_path / "run")

    return made


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: Net(lambda: nn.BatchNorm1d(8)),
         r"module 'between' \(BatchNorm1d\) keeps running statistics.*use GroupNorm, or pass "
         "track_running_stats=False"),
        (lambda: Net(lambda: nn.Dropout(0.5)),
         r"module 'between' \(Dropout\) draws random masks.*fedmaml\.core\.networks\.dropout"),
        (lambda: Attentive(lambda: nn.MultiheadAttention(6, 2, batch_first=True)),
         r"module 'layer' \(MultiheadAttention\) has no second derivative.*use fomaml or reptile.*"
         r"or replace it \(MultiheadAttention\) by fedmaml\.core\.networks\.MultiheadAttention"),
        (lambda: Attentive(lambda: nn.MultiheadAttention(6, 2, 0.1, batch_first=True)),
         r"module 'layer' \(MultiheadAttention\) draws random numbers of its own"),
        (lambda: Net().requires_grad_(False),
         "network Net has no parameters that are not frozen, so there is nothing to learn"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_by_name(
    run: Callable[..., fm.RunResult], network: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(UnsupportedProblemError, match=message):
        run(network)


@pytest.mark.parametrize(
    "network",
    [
        lambda: Net(lambda: nn.BatchNorm1d(8, track_running_stats=False)),
        lambda: Net(lambda: nn.GroupNorm(2, 8)),
        lambda: Recurrent(lambda: networks.GRU(FEATURES, 8)),
        lambda: Attentive(lambda: networks.MultiheadAttention(6, 2)),
        Tied,
        frozen,
    ],
    ids=["batch statistics", "group norm", "gru", "attention", "tied", "frozen"],
)
def test_what_is_written_instead_runs_for_many_clients_at_once(
    run: Callable[..., fm.RunResult], network: Callable[[], nn.Module]
) -> None:
    assert set(run(network).summary["engines"]["updates"]) == {"vmap"}


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_recurrent_layers_of_pytorch_run_one_by_one_and_name_a_faster_one(
    run: Callable[..., fm.RunResult], layer: type[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedmaml"):
        result = run(lambda: Recurrent(lambda: layer(FEATURES, 8, batch_first=True)))
    assert set(result.summary["engines"]["updates"]) == {"loop"}
    name = layer.__name__
    assert f"replace layer ({name}) by fedmaml.core.networks.GRU" in caplog.text


def test_a_frozen_part_stays_and_is_not_sent(run: Callable[..., fm.RunResult]) -> None:
    """It is part of every prediction; nothing of it is learned, broadcast or kept."""
    result = run(frozen, "fomaml")
    assert set(result.theta) == {"head.weight", "head.bias"}
    problem = fm.Problem(frozen, lambda p, y: p[:, 0] - y, ())
    found, params = learner.make_learner(problem, seeding.generator(0, "init"))
    with seeding.isolated(seeding.generator(0, "init")):
        own = frozen()
    x = torch.randn(3, ROWS, FEATURES, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.apply(params, x), own(x))
    moved = {name: value + 1 for name, value in params.items()}
    assert not torch.equal(found.apply(moved, x), own(x))


def test_a_network_of_somebody_is_not_changed() -> None:
    """The same module for every call: it is copied, and what is frozen in it stays so."""
    net = frozen()
    problem = fm.Problem(lambda: net, lambda p, y: p[:, 0] - y, ())
    for _ in range(2):
        _, params = learner.make_learner(problem, seeding.generator(0, "init"))
        assert set(params) == {"head.weight", "head.bias"}
    assert isinstance(net.body.weight, nn.Parameter)
    assert net.head.weight.requires_grad


def test_a_tied_weight_is_one_parameter_with_both_gradients(
    run: Callable[..., fm.RunResult],
) -> None:
    result = run(Tied, "fomaml")
    assert set(result.theta) == {"one.weight", "one.bias", "two.bias", "head.weight", "head.bias"}
    own = Tied()
    problem = fm.Problem(lambda: own, lambda p, y: p[:, 0] - y, ())
    found, params = learner.make_learner(problem, seeding.generator(0, "init"))
    x = torch.randn(3, ROWS, FEATURES, generator=torch.Generator().manual_seed(0))
    gradient = torch.func.grad(lambda p: found.apply(p, x).sum())(params)
    own(x).sum().backward()
    torch.testing.assert_close(gradient["one.weight"], own.one.weight.grad)
