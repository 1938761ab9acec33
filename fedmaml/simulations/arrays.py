"""Clients with arrays or frames in the memory of this process; made by ``fm.from_clients``.

Clients, splits, standardisation and references are those of scenario ``csv``; see `tabular`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from fedmaml.core.figures import Figure
from fedmaml.core.learner import Problem
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations import tabular
from fedmaml.simulations.datasets import arrays
from fedmaml.simulations.datasets.moments import unsound_sums
from fedmaml.simulations.datasets.rows import Rows
from fedmaml.simulations.datasets.sites import Sites
from fedmaml.simulations.datasets.tables import Table
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split


@settings
class Arrays(Scenario):
    """Clients whose examples this process holds.

    Attributes:
        seed: Determines which clients train, and splits.
        data: Key of what is held, see `datasets.arrays.hold`.
        unseen: Names of the test clients; () draws them.
        kind: "auto": classification if the target has labels or few different whole numbers.
        network: "mlp", two layers of 32 tanh units, "linear", or "own", which is held.
        shots: Rows on which a test client adapts; 0: half of them.
        examples: Most rows of a support, and of a query.
        validation: Fraction of the clients that validate.
        test: Fraction of the clients that test, unless ``unseen`` names them.
    """

    about: ClassVar[str] = "arrays in memory, by fm.from_clients"
    recipes: ClassVar[Recipes] = tabular.RECIPES
    held: ClassVar[str] = (
        "has its data in the memory of this process, where others cannot read them: write them to "
        "files for scenario csv"
    )

    seed: int = 0
    data: str = ""
    unseen: tuple[str, ...] = ()
    kind: Literal["auto", "classification", "regression"] = "auto"
    network: Literal["mlp", "linear", "own"] = "mlp"
    shots: Annotated[int, Ge(0)] = 0
    examples: Annotated[int, Gt(1)] = 1000
    validation: Annotated[float, Ge(0), Le(0.9)] = 0.15
    test: Annotated[float, Gt(0), Le(0.9)] = 0.25

    def problem(self) -> Problem:
        held, schema = arrays.held_under(self.data), self._sites.schema
        own = held.network if self.network == "own" else None
        problem = tabular.problem(schema, own or tabular.network(schema, self.network))
        return replace(
            problem, loss=held.loss or problem.loss, metrics=held.metrics or problem.metrics
        )

    def clients(self) -> dict[Split, range]:
        return tabular.clients(self._sites)

    def statistics(self, client: int) -> Params:
        return tabular.statistics(self._sites, client)

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        return unsound_sums(statistics)

    def max_examples(self, client: int) -> int:
        return len(self._sites.rows[client][1])

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        sites, sizes = self._sites, (self.shots, self.examples)
        made = {
            client: tabular.task(sites, split, client, round, shared_statistics, self.seed, sizes)
            for client in clients
        }
        if self.network == "own":
            made = {client: self._shaped(task) for client, task in made.items()}
        return group_by_shape(made)

    def references(self) -> tuple[Reference, ...]:
        wide = self.network == "own" and len(self._shape) > 1
        return () if wide else tabular.references_of(self._sites.schema)

    def figures(self) -> tuple[Figure, ...]:
        return tabular.figures(self._sites, self.problem())

    def rows(self) -> Rows:
        held = arrays.held_under(self.data)
        named = isinstance(held.clients[0], Table)
        own = self.network == "own" or held.loss is not None or bool(held.metrics)
        return Rows(self._sites.schema, self.network, () if named else self._shape, own)

    def groups(self, client: int) -> Mapping[str, str]:
        return {"client": self._sites.clients[client]}

    def _shaped(self, task: Task) -> Task:
        """Return a task whose inputs have the shape in which they were given."""
        return Task(
            *(
                Batch(batch.x.reshape(-1, *self._shape), batch.y)
                for batch in (task.support, task.query)
            )
        )

    @property
    def _sites(self) -> Sites:
        return self._found[0]

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._found[1]

    @property
    def _found(self) -> tuple[Sites, tuple[int, ...]]:
        fractions = (self.validation, self.test)
        sites, shape = arrays.sites_of(self.data, self.unseen, self.kind, fractions, self.seed)
        tabular.refuse_shots(sites, self.shots)
        return sites, shape
