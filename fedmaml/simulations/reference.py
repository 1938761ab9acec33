"""The interface of references: predictors that no gradient trains, on a strategy's clients.

A strategy that does not beat a constant, the nearest neighbour or a two-line rule is not worth its
cost, and an oracle says how much there is to gain at all. A scenario names its references in
`Scenario.references`; ready-made ones are in `fedmaml.simulations.references`. Your own
is a function of the training clients, as far as they may be known, and of settings:

    def double(clients: TrainingClients) -> Adapt:
        return lambda support: lambda x: 2 * x

    Reference("double", "twice the input", double)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import Predictor
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch

Adapt = Callable[[Batch], Predictor]
"""Support -> predictor, whose output has the form of the network's."""

MAX_TRAINING_CLIENTS = 1000
"""A reference sees at most this number of training clients, the first ones."""


@dataclass(frozen=True)
class TrainingClients:
    """The knowledge that a reference may have of the training clients.

    Attributes:
        reference: Name of the reference.
        federated: Whether it declares that it pools no examples; then `examples` refuses.
        statistics: Totals of `Scenario.statistics`, as every client receives them.
        deal: Makes the examples of every training client, of the first `MAX_TRAINING_CLIENTS`.
    """

    reference: str
    federated: bool
    statistics: Params
    deal: Callable[[], Sequence[Batch]]

    def mean(self, summary: Callable[[Batch], Tensor]) -> Tensor:
        """Return the mean over training clients of a summary that each computes from its examples.

        A federation can compute it, too: every client sends its summary, and no example.
        """
        return torch.stack([summary(examples) for examples in self.deal()]).mean(0)

    def examples(self) -> Sequence[Batch]:
        """Return the examples of every training client, all in one place.

        Raises:
            ConfigurationError: If the reference declares that it is federated.
        """
        if self.federated:
            raise ConfigurationError(
                f"reference {self.reference!r} pools the examples of training clients, which no "
                "federation can: declare Reference(federated=False), or let each client summarise "
                "its own examples (TrainingClients.mean)"
            )
        return self.deal()


@dataclass(frozen=True)
class Reference:
    """A predictor that no gradient trains.

    Attributes:
        name: As it appears in tables and files.
        about: One line: what it predicts.
        fit: ``(training clients, **settings) -> support -> predictor``. Called once for every
            setting of the grid; what it returns is called once for every client.
        federated: Whether a federation could compute it; False: it pools examples of training
            clients, and every table says so.
        oracle: Whether it knows what no client can know, e.g. how the data were made. It is a
            bound, not a rival: a comparison's first line leaves it out.
        grid: Settings for ``fit``. The best on the validation clients is taken (of equals the
            first); without validation clients, the first of the grid.
    """

    name: str
    about: str
    fit: Callable[..., Adapt]
    federated: bool = True
    oracle: bool = False
    grid: tuple[Mapping[str, Any], ...] = ({},)
