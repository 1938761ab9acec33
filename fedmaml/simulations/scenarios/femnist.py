"""FEMNIST: 62 characters in the hands of writers who were never seen.

A writer is a client; the writers who train, validate and test are different people. A new writer
labels ``shots`` characters. A letter means the same at every writer, so a pooled model has little
to miss: fine-tuned FedAdam comes within a few hundredths of meta-learning here.

Several classes look alike in one image: 0, O and o; 1, l and I.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Task, TaskGroup, group_by_shape
from fedmaml.simulations import references
from fedmaml.simulations.datasets import femnist
from fedmaml.simulations.datasets.suited import suited
from fedmaml.simulations.dealing import deal, in_order
from fedmaml.simulations.reference import Reference
from fedmaml.simulations.scenario import Recipes, Scenario, Split

_FEWEST_QUERIES = 20
_META = {"inner.lr": 0.3, "inner.steps": 3, "outer.lr": 0.06, "outer.schedule": "cosine"}
_EMBEDDING = {"outer.lr": 0.01, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.5, "inner.steps": 20, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.1, "adaptation.steps": 5}  # fmt: skip


@settings
class Femnist(Scenario):
    """Handwritten characters of writers who were never seen.

    Attributes:
        seed: Determines who trains, and all splits.
        shots: Support images of a writer.
        queries: Query images of a writer, at most.
        network: "mlp" (196-64-62 on images of 14x14 pixels) or "conv", `Conv4` on 28x28.
        filters: Of "conv".
        data_dir: Folder with the data, see `datasets.femnist.load`.
    """

    about: ClassVar[str] = "62 handwritten characters by writer (real, LEAF's FEMNIST)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 200, "clients": 20},
        "local": {"rounds": 0, "inner.lr": 0.3, "inner.steps": 100},
        "fedavg": _AVERAGING,
        "fedadam": {"inner.lr": 0.1, "inner.steps": 5, "outer.optimizer": "adam", "outer.lr": 0.06,
                    "outer.schedule": "cosine", "adaptation.lr": 0.05, "adaptation.steps": 20},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "fedrep": _AVERAGING | {"head.lr": 0.1, "head.steps": 10},
        "family:initialisation": _META,
        "imaml": _META | {"inner.lr": 0.1, "inner.steps": 10, "lam": 1.0},
        "meta_sgd": _META | {"inner.lr": 0.1, "outer.lr": 0.03},
        "cavia": _META | {"inner.lr": 1.0},
        "family:personalised": _AVERAGING, "fedbabu": _AVERAGING,
        "pfedme": {"inner.lr": 0.1, "inner.steps": 20, "lam": 1.0, "local.lr": 0.5},
        "family:metric": _EMBEDDING, "family:model": _EMBEDDING, "r2d2": _EMBEDDING,
    }  # fmt: skip
    only_with: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {
        "filters": ("network", ("conv",))
    }

    seed: int = 0
    shots: Annotated[int, Gt(1)] = 100
    queries: Annotated[int, Gt(0)] = 60
    network: Literal["mlp", "conv"] = "mlp"
    filters: Annotated[int, Ge(1)] = 32
    data_dir: str = ""

    def problem(self) -> Problem:
        def network() -> nn.Module:
            if self.network == "conv":
                return Conv4(1, femnist.SIZE, femnist.CLASSES, self.filters)
            return MLP(((femnist.SIZE // 2) ** 2, 64, femnist.CLASSES))

        return Problem(network, cross_entropy, (ACCURACY,), classes=femnist.CLASSES)

    def clients(self) -> dict[Split, range]:
        return deal(len(_writers(self.data_dir, self.shots, self.network)[0]))

    def max_examples(self, client: int) -> int:
        return self.shots + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape({client: self._task(split, client, round) for client in clients})

    def left_out(self) -> Mapping[str, str]:
        return _writers(self.data_dir, self.shots, self.network)[1]

    def references(self) -> tuple[Reference, ...]:
        targets = references.classes(femnist.CLASSES)
        return (references.nearest_neighbour(targets, (1, 3)),)

    def _task(self, split: Split, client: int, round: int) -> Task:
        writers, _ = _writers(self.data_dir, self.shots, self.network)
        people = seeding.key(self.seed, "femnist", "people")
        x, y = writers[int(seeding.permutation(people, [0], len(writers))[0, client])]
        draw = seeding.key(self.seed, "femnist", "split", split, round if split == "train" else 0)
        order = seeding.permutation(draw, [client], len(y))[0]
        return in_order(x, y, order, self.shots, self.queries)


@lru_cache(maxsize=4)
def _writers(
    data_dir: str, shots: int, network: str
) -> tuple[tuple[tuple[Tensor, Tensor], ...], dict[str, str]]:
    """Return (x, y) of the writers who have enough images, x float32, as the network takes it.

    The others follow by name, with the reason.
    """
    fewest = shots + _FEWEST_QUERIES
    everyone = femnist.load(data_dir)
    enough, left_out = suited(
        everyone, lambda own: f"fewer than {fewest} images" if len(own[1]) < fewest else ""
    )
    if len(enough) < 3:
        most = max(len(y) for _, y in everyone.values())
        raise ConfigurationError(
            f"task.shots = {shots}: {len(enough)} of {len(everyone)} writers have the {fewest} "
            f"images that this takes, the most is {most}; lower task.shots"
        )
    return tuple((_pixels(x, network), y) for x, y in enough.values()), left_out


def _pixels(images: Tensor, network: str) -> Tensor:
    x = images[:, None].float() / 255
    return x if network == "conv" else F.avg_pool2d(x, 2).flatten(1)
