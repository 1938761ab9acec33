"""What is computed: networks of the literature, and fully connected ones of any size.

    W1  sinusoid regression, 1-40-40-1, 10 support and 10 query examples
    W2  a hospital's table, 13-32-2, 16 and 16; or 4..32 and as many, different at each client
    W3  Omniglot's network, four convolutions of 64 filters with batch norm, 5 and 75 images
    W4  FEMNIST's network, two convolutions and 6.6 million parameters, 20 and 20 images
    GRU PyTorch's own recurrent layer, 8 inputs and 16 states, 20 steps; 10 and 10 sequences
    ATT attention of 4 heads over 20 steps of 16 features, fedmaml's own layer; 10 and 10 sequences
    C4  the network Conv4 of fedmaml: 32 filters with group norm, 5 and 25 images
    MLP 64-h-h-10 of about a given number of parameters, 16 and 16

The data is drawn, not loaded: speed depends on its shape alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.learner import Problem, make_learner
from fedmaml.core.losses import cross_entropy, squared_error
from fedmaml.core.metrics import ACCURACY, MEAN_SQUARED_ERROR
from fedmaml.core.networks import Conv4, MultiheadAttention
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch, Task

Draw = Callable[[torch.Generator], Task]


@dataclass(frozen=True)
class Workload:
    """A network, its loss and a way to draw clients' data.

    Attributes:
        problem: Network and loss, as fedmaml takes them.
        draw: Draws one client's task.
    """

    problem: Problem
    draw: Draw

    def tasks(self, clients: int) -> list[Task]:
        """Draw the clients' tasks; the first ones do not depend on how many follow."""
        return [self.draw(seeding.generator(0, "client", client)) for client in range(clients)]

    def theta(self) -> Params:
        """Draw the initialisation, the same for all contenders."""
        return make_learner(self.problem, seeding.generator(0, "init"))[1]

    def module(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Build the network with the initialisation in it."""
        module = self.problem.network().to(dtype)
        module.load_state_dict({name: value.to(dtype) for name, value in self.theta().items()})
        return module

    def mean_loss(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss over examples."""
        return self.problem.loss(prediction, y).mean()


def sinusoid() -> Workload:
    def draw(rng: torch.Generator) -> Task:
        amplitude = 0.1 + 4.9 * torch.rand((), generator=rng)
        phase = math.pi * torch.rand((), generator=rng)
        x = 10 * torch.rand(20, 1, generator=rng) - 5
        return _split(x, amplitude * torch.sin(x + phase), 10)

    return Workload(
        Problem(
            lambda: fully_connected(1, 40, 40, 1), squared_error, (MEAN_SQUARED_ERROR,), head="4"
        ),
        draw,
    )


def hospital(smallest: int = 32, largest: int = 32) -> Workload:
    """Return W2; a client holds ``smallest`` to ``largest`` examples, half of them query."""

    def draw(rng: torch.Generator) -> Task:
        half = int(torch.randint(smallest // 2, largest // 2 + 1, (), generator=rng))
        x = torch.randn(2 * half, 13, generator=rng) + 0.5 * torch.randn(13, generator=rng)
        y = (x @ torch.randn(13, generator=rng) > 0).long()
        y[:2] = torch.arange(2)  # a support without a class would have no mean of it
        return _split(x, y, half)

    return _classification(lambda: fully_connected(13, 32, 2), draw, head="2", classes=2)


def omniglot() -> Workload:
    def network() -> nn.Module:
        layers: list[nn.Module] = []
        for channels in (1, 64, 64, 64):
            convolution = nn.Conv2d(channels, 64, 3, padding=1)
            norm = nn.BatchNorm2d(64, track_running_stats=False)
            layers += [convolution, norm, nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))

    def draw(rng: torch.Generator) -> Task:
        y = torch.arange(5).repeat(16)  # 1 support and 15 query examples of each class
        characters = torch.rand(5, 1, 28, 28, generator=rng)
        return _split(characters[y] + 0.3 * torch.rand(80, 1, 28, 28, generator=rng), y, 5)

    return _classification(network, draw, head="17", classes=5)


def femnist() -> Workload:
    def network() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(3136, 2048), nn.ReLU(), nn.Linear(2048, 62)),
        )

    def draw(rng: torch.Generator) -> Task:
        x = torch.rand(40, 1, 28, 28, generator=rng)
        return _split(x, torch.randint(0, 62, (40,), generator=rng), 20)

    return _classification(network, draw)


def recurrent(cell: Callable[[], nn.Module] | None = None) -> Workload:
    """Return a recurrent reader of sequences; its layer is PyTorch's, or another like it."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = cell() if cell else nn.GRU(8, 16, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            states = self.body(x)
            output: Tensor = self.head((states if cell else states[0])[:, -1])
            return output

    return _classification(Reader, _sequences)


def attentive() -> Workload:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.attention = MultiheadAttention(16, 4)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            steps = self.body(x)
            output: Tensor = self.head(self.attention(steps, steps, steps).mean(1))
            return output

    return _classification(Reader, _sequences)


def _sequences(rng: torch.Generator) -> Task:
    x = torch.randn(20, 20, 8, generator=rng)
    return _split(x, torch.randint(0, 3, (20,), generator=rng), 10)


def conv4() -> Workload:
    def draw(rng: torch.Generator) -> Task:
        y = torch.arange(5).repeat(6)  # 1 support and 5 query examples of each class
        characters = torch.rand(5, 1, 28, 28, generator=rng)
        return _split(characters[y] + 0.3 * torch.rand(30, 1, 28, 28, generator=rng), y, 5)

    return _classification(lambda: Conv4(1, 28, 5, filters=32), draw)


def perceptron(parameters: float) -> Workload:
    """Return the fully connected network 64-h-h-10 nearest to a number of parameters."""
    # h^2 + (64 + 10 + 2) h + 10 parameters, biases included
    width = max(1, round(-38 + math.sqrt(38**2 + parameters - 10)))

    def draw(rng: torch.Generator) -> Task:
        x = torch.randn(32, 64, generator=rng)
        return _split(x, torch.randint(0, 10, (32,), generator=rng), 16)

    return _classification(lambda: fully_connected(64, width, width, 10), draw, head="4")


def fully_connected(*widths: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _classification(
    network: Callable[[], nn.Module], draw: Draw, head: str = "head", classes: int | None = None
) -> Workload:
    return Workload(Problem(network, cross_entropy, (ACCURACY,), head=head, classes=classes), draw)


def _split(x: Tensor, y: Tensor, support: int) -> Task:
    return Task(Batch(x[:support], y[:support]), Batch(x[support:], y[support:]))
