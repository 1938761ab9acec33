"""The interface of scenarios: a family of tasks, their clients, a network and metrics.

A scenario is a frozen value of settings; settings and seed determine all data. Clients have
numbers; one client is one task. In training a client draws a fresh split of its data into support
and query every round (this matters more than the choice of algorithm: see docs/results.md); for
evaluation its split is fixed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from fedmaml.core.figures import Figure
from fedmaml.core.kernels import KernelSpec
from fedmaml.core.learner import Problem
from fedmaml.core.params import Params
from fedmaml.core.tasks import TaskGroup
from fedmaml.simulations.datasets.rows import Rows
from fedmaml.simulations.reference import Reference

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Recipes = Mapping[str, Mapping[str, Any]]
"""Strategy name, "family:<family>" or "*" (all) -> settings that suit the scenario, by dotted key.

The narrower one wins.
"""


class Scenario(ABC):
    """A family of learning problems spread over clients.

    Attributes:
        seed: Determines all data; a field of every scenario.
        about: One line for ``fedmaml list``.
        recipes: Settings that were tuned for the scenario; the user's own settings override them.
        expected: Findings of the leakage audit that the scenario makes on purpose: kind (see
            `fedmaml.auditing.KINDS`) -> reason. All other findings are reported as alarming.
        only_with: Field that has an effect only with some values of another field -> that field
            and those values. Setting the first without the second is refused.
        caveats: What whoever reads a result must know; a report says it. Sentences.
    """

    seed: int
    about: ClassVar[str]
    recipes: ClassVar[Recipes]
    expected: ClassVar[Mapping[str, str]] = {}
    only_with: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {}
    caveats: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def problem(self) -> Problem:
        """Return network, loss and metrics."""

    @abstractmethod
    def clients(self) -> dict[Split, range]:
        """Return the client numbers of each split; a split may be empty."""

    def statistics(self, client: int) -> Params:
        """Return sums over a training client's data that it sends once, with the roll call.

        float64 vectors; their totals over all training clients come back as ``shared_statistics``
        in `tasks`. Most scenarios need none.
        """
        del client
        return {}

    @abstractmethod
    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        """Return the clients' tasks, stacked in groups of equal shape.

        Args:
            split: Of the clients; "train" draws a new split of the data in each round. In the other
                splits the support is in random order (in classification, within each class), so
                that its first examples are a fair sample.
            clients: Client numbers from `clients`.
            round: From 1; ignored unless the split is "train".
            shared_statistics: Totals of `statistics`.
        """

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        """Return training clients whose `statistics` cannot be true, and what is wrong with them.

        Called by a server, which has no data. E.g. ``{3: "have a negative count"}``.
        """
        del statistics
        return {}

    def max_examples(self, client: int) -> int:
        """Return the most examples, support and query, that a training client's task can hold.

        A server that knows it refuses a reply that weighs more. 0: it is not declared.
        """
        del client
        return 0

    def left_out(self) -> Mapping[str, str]:
        """Return the clients whose data do not suit the scenario, by name, and why not.

        E.g. ``{"C33P1": "no infected cells"}``: they have no number and take part in nothing. A run
        counts them by reason in its log, its summary and its report. It asks only where it reads
        the scenario's data anyway.
        """
        return {}

    def references(self) -> tuple[Reference, ...]:
        """Return the predictors that no gradient trains; strategies are compared with them."""
        return ()

    def figures(self) -> tuple[Figure, ...]:
        """Return what a run is evaluated by beside the means of its metrics; see `core.figures`."""
        return ()

    def rows(self) -> Rows | None:
        """Return how rows of a table become inputs, if examples are such; a run keeps it.

        With it the run's model can be adapted to further tables, without the clients' files.
        """
        return None

    def groups(self, client: int) -> Mapping[str, str]:
        """Return the groups of a test client, by label, for figures and tables.

        E.g. ``{"sex": "f", "region": "north"}``; also what clients share that makes them depend on
        each other (a family, a week). Evaluation knows them, training does not.
        """
        del client
        return {}

    def family(self, client: int) -> str:
        """Return the name of the further family that a test client belongs to; "" for none.

        Clients of another survey, say: they are evaluated like all test clients and reported
        apart, so that no mean is over both.
        """
        del client
        return ""


@runtime_checkable
class HasClosedForm(Protocol):
    """A scenario that knows the point to which a strategy must converge."""

    def closed_form(self, spec: KernelSpec) -> Tensor | None:
        """Return the limit point of a strategy, ``(entries,)``; None without a formula."""


def totals_of(scenario: Scenario, clients: Iterable[int]) -> Params:
    """Return the totals of what clients send once, in their order; {} if that is nothing.

    There may be a million clients: if the first has no statistics, no other is asked.
    """
    totals: Params = {}
    for client in clients:
        if not (own := scenario.statistics(client)):
            return {}
        totals = {name: totals[name] + own[name] if totals else own[name] for name in own}
    return totals
