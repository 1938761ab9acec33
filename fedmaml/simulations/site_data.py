"""A base for scenarios of sites that hold their own examples: say how one site reads them.

Which sites are held out, fresh splits in every round, shared scales and the order of everything are
here; a network, a loss, and `examples` are somebody's own.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError, DataError
from fedmaml.core.learner import Problem
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations.datasets.moments import standardised, sums, unsound_sums
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.scenario import Recipes, Scenario, Split


@settings
class Sites(Scenario):
    """Sites, each of which reads its own examples; write `problem` and `examples`.

        @settings
        class Wards(fm.Sites):
            about = "wards of our hospital"
            sites: int = 12

            def problem(self): ...
            def examples(self, site): ...

    Under Flower ``examples`` runs where the site's data are: node p of n reads the sites p, p + n,
    ... A training site splits its examples anew in every round, half support and half query; a site
    that is held out adapts on ``shots`` of them, or on half, and is evaluated on the others.

    Attributes:
        seed: Determines splits.
        sites: Number of sites; the last ones are held out.
        held_out: Sites that do not train, on which the result is evaluated.
        validation: Sites before them that do not train, on which rounds are chosen.
        shots: Examples on which such a site adapts; 0: half of them.
    """

    about: ClassVar[str] = "sites that read their own examples"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 100},
        "local": {"rounds": 0, "inner.lr": 0.05, "inner.steps": 100},
        "family:initialisation": {"inner.lr": 0.02, "inner.steps": 5},
    }

    seed: int = 0
    sites: Annotated[int, Gt(0)] = 8
    held_out: Annotated[int, Gt(0)] = 2
    validation: Annotated[int, Ge(0)] = 0
    shots: Annotated[int, Ge(0)] = 0

    @abstractmethod
    def problem(self) -> Problem:
        """Return network, loss and metrics."""

    @abstractmethod
    def examples(self, site: int) -> tuple[Tensor, Tensor]:
        """Return all inputs ``(rows, *features)`` and targets of a site; it alone reads them.

        Columns ``(rows, columns)`` are standardised by sums over the training sites; NaN becomes
        the mean.
        """

    def clients(self) -> dict[Split, range]:
        """Return the sites that train, that validate and that are held out."""
        train = self.sites - self.held_out - self.validation
        if train < 1:
            raise ConfigurationError(
                f"sites = {self.sites}, held_out = {self.held_out}, validation = "
                f"{self.validation}: none is left to train; raise task.sites"
            )
        return numbered(train, self.validation, self.held_out)

    def statistics(self, client: int) -> Params:
        """Return counts, sums and sums of squares of a site's columns; {} of other inputs."""
        x, _ = self.examples(client)
        return sums(x.double()) if x.ndim == 2 else {}

    def unsound_statistics(self, statistics: Mapping[int, Params]) -> Mapping[int, str]:
        """Return sites whose sums no data have, or only data of quite another size, and why."""
        return unsound_sums({site: own for site, own in statistics.items() if own})

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        """Return the sites' tasks."""
        return group_by_shape(
            {site: self._task(split, site, round, shared_statistics) for site in clients}
        )

    def _task(self, split: Split, site: int, round: int, shared_statistics: Params) -> Task:
        x, y = self.examples(site)
        cut = len(y) // 2 if split == "train" or not self.shots else self.shots
        if not 0 < cut < len(y) or len(x) != len(y):
            raise DataError(
                f"site {site} has {len(x)} inputs and {len(y)} targets: it needs as many of both, "
                f"and more than the {max(cut, 1)} on which it adapts"
            )
        words = ("split", round) if split == "train" else ("support",)
        order = seeding.permutation(seeding.key(self.seed, "sites", *words), [site], len(y))[0]
        if shared_statistics:
            x = standardised(x.double(), shared_statistics)
        support, query = order[:cut], order[cut:]
        return Task(Batch(x[support], y[support]), Batch(x[query], y[query]))
