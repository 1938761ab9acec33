"""Movies: what will a new user of a film service think of films, after ten ratings?

MovieLens: a user is a client; users who train, validate and test are different people. With mean m,

    stars = m + b_u + u'v_i + w b_i

where v_i and b_i, a film's factors and bias, are the body of the network and (u, w, b_u), the
user's, its head. The support are a user's first ratings (cold start), the query later ones. Films
that fewer than five training users rated are left out.

``start = "als"`` begins with films that alternating least squares found in the ratings of the
training users; from random films nothing here beats a bias. Films could be found so in a federation
(sums of each user), but here it is done in one place. The rival to beat is the bias of film and
user in closed form: b_u = sum of rests / (n + shrinkage).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.figures import Figure, pooled_rmse, worst_decile
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import EXAMPLES, RMSE, Metric
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations.datasets import movielens
from fedmaml.simulations.dealing import in_order
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.references import linear
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import ratings

_FEWEST_QUERIES = 5
_PENALTY = 10.0  # of alternating least squares
_META = {"inner.lr": 0.2, "inner.steps": 5, "outer.lr": 0.002, "outer.schedule": "cosine"}
_AVERAGING = {"inner.lr": 0.05, "inner.steps": 5, "outer.optimizer": "sgd", "outer.lr": 1.0,
              "adaptation.lr": 0.2, "adaptation.steps": 5}  # fmt: skip


class Stars(nn.Module):
    """Films as (v_i, b_i), and a user as a linear function of them."""

    def __init__(self, films: Tensor) -> None:
        super().__init__()
        self.films = nn.Parameter(films.clone(memory_format=torch.contiguous_format))
        self.head = nn.Linear(films.shape[1], 1)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():  # nobody's taste, and every film's bias
            self.head.weight.copy_(torch.eye(films.shape[1])[-1:])

    def forward(self, x: Tensor) -> Tensor:
        """Map films, int64 ``(ratings, 1)``, to stars less the mean, ``(ratings, 1)``."""
        output: Tensor = self.head(self.films[x[:, 0]])
        return output


@settings
class Movies(Scenario):
    """MovieLens users who are new.

    Attributes:
        seed: Determines who trains, and all splits.
        shots: Support ratings of a user.
        queries: Query ratings of a user, at most.
        support: The "first" ratings of a user in time, or "random" ones.
        start: Films before training: "als", or "random".
        width: Entries of a film's factors.
        data_dir: Folder with the data, see `datasets.movielens.load`.
    """

    about: ClassVar[str] = "stars for films by 610 people, cold start in time (real, MovieLens)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 300, "clients": 64},
        "local": {"rounds": 0, "inner.lr": 0.2, "inner.steps": 5},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.002,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING | {"outer.schedule": "linear"},
        "fedrep": _AVERAGING | {"head.lr": 0.2, "head.steps": 5},
        "anil": _META, "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip
    expected: ClassVar[Mapping[str, str]] = {
        "duplicates-across-clients": "an example is a film and its stars: users agree on films"
    }

    seed: int = 0
    shots: Annotated[int, Gt(0)] = 10
    queries: Annotated[int, Gt(0)] = 100
    support: Literal["first", "random"] = "first"
    start: Literal["als", "random"] = "als"
    width: Annotated[int, Ge(1)] = 8
    data_dir: str = ""

    def problem(self) -> Problem:
        films = _films(self)
        metrics = (
            Metric("rmse", "stars", "lower", float("inf"), RMSE.function, least=0),
            Metric("pairs", "1", "higher", 0.0, ratings.pairs_in_order, least=0, most=1),
            EXAMPLES,
        )
        ordered = self.support == "first"
        return Problem(lambda: Stars(films), half_squared_error, metrics, ordered=ordered)

    def clients(self) -> dict[Split, range]:
        return _people(self).clients

    def statistics(self, client: int) -> Params:
        stars = _people(self).rated[client][1]
        return {"stars": torch.stack([torch.tensor(float(len(stars))), stars.sum()]).double()}

    def max_examples(self, client: int) -> int:
        return self.shots + self.queries

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        count, total = shared_statistics["stars"]
        return group_by_shape(
            {client: self._task(split, client, round, total / count) for client in clients}
        )

    def left_out(self) -> Mapping[str, str]:
        return _people(self).left_out

    def references(self) -> tuple[Reference, ...]:
        bias, films = ratings.biases(*_people(self).of_training()[1:]), _films(self)

        def of_film(_clients: TrainingClients) -> Adapt:
            return lambda _support: lambda x: bias[x].to(torch.float32)

        def of_both(_clients: TrainingClients, shrinkage: float) -> Adapt:
            def adapt(support: Batch) -> Predictor:
                rest = (support.y - bias[support.x[:, 0]]).sum() / (len(support.y) + shrinkage)
                return lambda x: (bias[x] + rest).to(torch.float32)

            return adapt

        def of_films(x: Tensor) -> Tensor:
            return torch.cat([films[x[:, 0]], torch.ones(len(x), 1, dtype=films.dtype)], 1)

        start = torch.zeros(self.width + 2, 1, dtype=torch.float64)
        start[-2] = 1
        strengths = (1.0, 3.0, 6.0, 10.0, 20.0)
        grid = tuple({"shrinkage": each} for each in strengths)
        ridge = tuple({"weight": each} for each in strengths)
        return (
            Reference("film bias", "the film's shrunk bias among training users", of_film),
            Reference("film and user bias", "the same plus the user's, shrunk", of_both, grid=grid),
            Reference("ridge fold-in", "ridge regression of the user on the films at the start",
                      lambda _clients, weight: linear.ridge_around(of_films, start, weight),
                      grid=ridge),
        )  # fmt: skip

    def figures(self) -> tuple[Figure, ...]:
        rmse = self.problem().metrics[0]
        return pooled_rmse(rmse), worst_decile(rmse)

    def _task(self, split: Split, client: int, round: int, mean: Tensor) -> Task:
        film, stars = _people(self).rated[client]
        at = round if split == "train" else 0
        draw = seeding.key(self.seed, "movies", "split", split, at)
        order = seeding.permutation(draw, [client], len(stars))[0]
        if self.support == "first" and split != "train":
            order = torch.cat([torch.arange(self.shots), order[order >= self.shots]])
        return in_order(film[:, None], stars - mean, order, self.shots, self.queries)


@lru_cache(maxsize=4)
def _people(scenario: Movies) -> ratings.People:
    everyone = movielens.load(scenario.data_dir)
    key = seeding.key(scenario.seed, "movies", "people")
    names, order = list(everyone), seeding.permutation(key, [0], len(everyone))[0].tolist()
    shuffled = {names[place]: everyone[names[place]] for place in order}
    people = ratings.dealt(shuffled, scenario.shots + _FEWEST_QUERIES)
    if not all(people.clients.values()):
        raise ConfigurationError(
            f"task.shots = {scenario.shots}: no user of some split has the "
            f"{scenario.shots + _FEWEST_QUERIES} ratings that this takes; lower task.shots"
        )
    return people


@lru_cache(maxsize=4)
def _films(scenario: Movies) -> Tensor:
    """Return (v_i, b_i) before training, float64 ``(films, width + 1)``."""
    people = _people(scenario)
    if scenario.start == "random":
        key = seeding.key(scenario.seed, "movies", "films")
        return 0.1 * seeding.normal(key, range(people.items), scenario.width + 1)
    return ratings.factorised(*people.of_training(), scenario.width, _PENALTY)
