"""Tables of your own: CSV or Parquet files, one file for each client, or one column that names it.

    fedmaml run csv --data 'sites/*.csv' --target y

Clients that train, that validate and that test are different ones, drawn by the seed; files that
``task.unseen`` names are the test clients instead. A training client splits its rows anew in every
round, half support and half query; a test client adapts on ``shots`` rows, or on half of them, and
is evaluated on the others. A client without rows, with fewer than four, or with one class alone is
left out by name (`Csv.left_out`); at a real site it is refused.

No client shows its rows: each training client sends counts, sums and sums of squares of its columns
once, with the roll call. From their totals come the means that replace missing numbers and the
scales that standardise, for all clients alike. The names of columns, categories and classes are
those of the training clients' files.

At real sites nobody has all files: the federation agrees beforehand on the columns, `task.columns`
and `task.classes`, and on the number of sites. Then each site is a client by its number, reads the
table or the function that its own file names, and nothing else; the last sites are held out.

    sites = 4                                     # below [task] of the coordinator's configuration
    target = "disease"
    columns = ["age", "cholesterol", "sex=f|m"]
    classes = ["no", "yes"]
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.figures import Figure
from fedmaml.core.learner import Problem
from fedmaml.core.params import Params
from fedmaml.core.settings import Files, OfSite, settings
from fedmaml.core.tasks import TaskGroup, group_by_shape
from fedmaml.simulations import tabular
from fedmaml.simulations.datasets import agreed, tables
from fedmaml.simulations.datasets.moments import unsound_sums
from fedmaml.simulations.datasets.rows import Rows
from fedmaml.simulations.datasets.sites import Sites, arranged
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split


@settings
class Csv(Scenario):
    """Clients with tables of the same columns.

    Attributes:
        seed: Determines which clients train, and splits.
        data: Path of a file, or a pattern in quotes, e.g. ``'sites/*.csv'``.
        target: Column to predict.
        client: Column that names the client of each row; "": each file is one client.
        unseen: Path or pattern of further files, whose clients are the test clients.
        ignore: Columns that are no inputs, e.g. a patient's number.
        kind: "auto": classification if the target has text or few different whole numbers.
        network: "mlp", two layers of 32 tanh units, or "linear".
        shots: Rows on which a test client adapts; 0: half of them.
        examples: Most rows of a support, and of a query.
        validation: Fraction of the clients that validate.
        test: Fraction of the clients that test, unless ``unseen`` names them.
        sites: Number of real sites, which agreed on the columns; 0: ``data`` names files instead.
        columns: Inputs of the sites: "name" of numbers, "name=value|value" of categories.
        classes: Labels of the sites' target; () if it holds numbers.
        table: The site's own file, which only the site may name.
        column: The site's own name of the target's column, if it differs; likewise.
        module: The site's own function, see `datasets.agreed.own_examples`; likewise.
    """

    about: ClassVar[str] = "CSV or Parquet files of your own, one file for each client"
    recipes: ClassVar[Recipes] = tabular.RECIPES

    seed: int = 0
    data: Files = ""
    target: str = ""
    client: str = ""
    unseen: Files = ""
    ignore: tuple[str, ...] = ()
    kind: Literal["auto", "classification", "regression"] = "auto"
    network: Literal["mlp", "linear"] = "mlp"
    shots: Annotated[int, Ge(0)] = 0
    examples: Annotated[int, Gt(1)] = 1000
    validation: Annotated[float, Ge(0), Le(0.9)] = 0.15
    test: Annotated[float, Gt(0), Le(0.9)] = 0.25
    sites: Annotated[int, Ge(0), Le(100_000)] = 0
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    table: Files = ""
    column: OfSite = ""
    module: OfSite = ""

    def problem(self) -> Problem:
        return tabular.problem(
            self._files.schema, tabular.network(self._files.schema, self.network)
        )

    def clients(self) -> dict[Split, range]:
        return tabular.clients(self._files)

    def statistics(self, client: int) -> Params:
        return tabular.statistics(self._files, client)

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        return unsound_sums(statistics)

    def max_examples(self, client: int) -> int:
        return len(self._files.rows[client][1])

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        sites, sizes = self._files, (self.shots, self.examples)
        return group_by_shape(
            {
                client: tabular.task(
                    sites, split, client, round, shared_statistics, self.seed, sizes
                )
                for client in clients
            }
        )

    def left_out(self) -> Mapping[str, str]:
        return self._files.left_out

    def references(self) -> tuple[Reference, ...]:
        return tabular.references_of(self._files.schema)

    def figures(self) -> tuple[Figure, ...]:
        return tabular.figures(self._files, self.problem())

    def rows(self) -> Rows:
        return Rows(self._files.schema, self.network)

    def groups(self, client: int) -> Mapping[str, str]:
        return {"client": self._files.clients[client]}

    @cached_property
    def _files(self) -> Sites:
        if self.sites:
            return self._agreed()
        if not (self.data and self.target):
            raise ConfigurationError(
                "scenario 'csv' needs your files and the column to predict: --data 'sites/*.csv' "
                "--target COLUMN"
            )
        known = tables.load_with_empty(self.data, self.client)
        unseen = tables.load_with_empty(self.unseen, self.client) if self.unseen else ()
        sites = arranged(
            known, unseen, self.target, self.client, self.ignore, self.kind,
            (self.validation, self.test), self.seed, leaving_out=True,
        )  # fmt: skip
        tabular.refuse_shots(sites, self.shots)
        return sites

    def _agreed(self) -> Sites:
        """Return the real sites, of which this process can read one or none."""
        if self.data or not (self.target and self.columns):
            raise ConfigurationError(
                "real sites (task.sites) agree on task.target and task.columns, and each reads its "
                "own table: set both, and leave out --data"
            )
        schema = agreed.schema_from(self.columns, self.target, self.classes)
        own = partial(agreed.own_examples, schema, self.table, self.column, self.module, self.shots)
        return agreed.arranged(schema, self.sites, (self.validation, self.test), own)
