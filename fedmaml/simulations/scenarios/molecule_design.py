"""Molecule design, a toy: strings are built towards a target that only their rewards tell. Made up.

Strings of at most eight tokens, C N O S F = and the end, keep a grammar (`systems.strings`); each
token adds to two properties, and a client has a hidden target for them, those of a random string. A
string that is bought has a reward, 1 at the target. Batches of eight are bought: five are the
support, the sixth is the query; "best" is its maximum, "reward" its mean, which a string that is
bought eight times makes large. A network spells by what tokens were worth
(`environments.spelling`); the examples are strings still to be bought, and every one is counted as
a call of the oracle. In training a client buys 16 in a round.

PEARL infers the target from the strings bought so far; strategies that adapt by gradient steps buy
each step's strings with the weights so far. `systems.string_search.rewards_of_batches` has all
that a client bought; benchmarks.design shows it beside an agent without context and one that is
shown the target (docs/atlas/molecule_design.md). A toy of additive groups, no chemistry: the
properties are rough, and strings no valid SMILES.

Rakelly et al. Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context Variables.
ICML 2019. arXiv:1903.08254. Genetic search: Jensen. A Graph-based Genetic Algorithm for the
Exploration of Chemical Space. Chem. Sci. 10, 2019.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.counters import Counter
from fedmaml.core.learner import Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import TaskGroup
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.environments.acting import Prediction, played
from fedmaml.simulations.environments.spelling import Speller, missed_reward
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems import strings
from fedmaml.simulations.systems.string_search import (
    Propose,
    at_random,
    by_process,
    genetic,
    searching,
)

BATCH, BATCHES = 8, 6
_META = {"inner.lr": 0.1, "inner.steps": 2, "inner.batch": BATCH, "outer.lr": 0.003,
         "outer.schedule": "cosine", "evaluation.steps": [BATCHES - 1]}  # fmt: skip
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 2, "inner.batch": BATCH, "outer.optimizer": "sgd",
              "outer.lr": 1.0, "adaptation.lr": 0.1, "adaptation.steps": BATCHES - 1,
              "adaptation.batch": BATCH}  # fmt: skip


@settings
class MoleculeDesign(Scenario):
    """Strings with a wanted composition.

    Attributes:
        seed: Determines targets and luck.
        train_clients: Clients that train.
        validation_clients: Clients for evaluation during training.
        test_clients: Clients for the final evaluation.
        condition: What the network gets besides: "nothing" or the "target".
        temperature: Of the policy, tau.
        hidden: Width of the two hidden layers.
        null: Whether clients adapt to another client's target, so that there is nothing to learn.
    """

    about: ClassVar[str] = "strings towards a hidden target, by few oracle calls (a toy)"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 300, "clients": 20},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": BATCHES - 1, "inner.batch": BATCH},
        "fedavg": _AVERAGING,
        "fedadam": _AVERAGING | {"outer.optimizer": "adam", "outer.lr": 0.003,
                                 "outer.schedule": "cosine"},
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
        "pearl": {"rounds": 1600, "outer.lr": 0.01, "outer.schedule": "cosine", "latent": 6,
                  "kl": 0.0},
    }  # fmt: skip

    seed: int = 0
    train_clients: Annotated[int, Gt(0)] = 100
    validation_clients: Annotated[int, Ge(0)] = 30
    test_clients: Annotated[int, Gt(0)] = 50
    condition: Literal["nothing", "target"] = "nothing"
    temperature: Annotated[float, Gt(0)] = 0.05
    hidden: Annotated[int, Ge(1)] = 64
    null: bool = False

    def problem(self) -> Problem:
        metrics = (
            Metric("best", "1", "higher", 0.0, _best, least=0, most=1),
            Metric("reward", "1", "higher", 0.0, _mean, least=0, most=1),
        )
        network = partial(Speller, self.hidden, self.temperature, self.condition == "target")
        calls = Counter("oracle_calls", "a string whose reward is measured", lambda _x, y: len(y))
        return Problem(network, missed_reward, metrics, head="", counters=(calls,))

    def clients(self) -> dict[Split, range]:
        return numbered(self.train_clients, self.validation_clients, self.test_clients)

    def max_examples(self, client: int) -> int:
        return 2 * BATCH

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        draw = seeding.key(self.seed, "molecule_design", split, round if split == "train" else 0)
        own = {"target": self.targets(clients)}
        shown = {"target": self.targets([client + 1 for client in clients])} if self.null else own
        counts = (BATCH if split == "train" else (BATCHES - 1) * BATCH, BATCH)
        return [played(draw, clients, (shown, own), counts, (strings.LENGTH,),
                       draws=seeding.uniform)]  # fmt: skip

    def references(self) -> tuple[Reference, ...]:
        return (
            Reference("random strings", "legal ones, none twice", partial(_search, _at_random)),
            Reference("genetic search", "children of the best two", partial(_search, genetic),
                      grid=tuple({"rate": rate} for rate in (0.25, 0.1, 0.5))),
            Reference("Gaussian process", "on compositions; mean + deviation",
                      partial(_search, by_process),
                      grid=tuple({"length": length} for length in (1.5, 3.0, 6.0))),
        )  # fmt: skip

    def targets(self, clients: Sequence[int]) -> Tensor:
        """Return (logp, mass) of a random string for each client, float64 ``(clients, 2)``."""
        key = seeding.key(self.seed, "molecule_design", "target")
        found = strings.spelled(seeding.uniform(key, clients, strings.LENGTH))
        return strings.properties(strings.composition(found))


def _at_random() -> Propose:
    return at_random


def _search(make: Callable[..., Propose], _clients: TrainingClients, **settings: float) -> Adapt:
    return searching(make(**settings), BATCH)


def _mean(prediction: Prediction, y: Tensor) -> Tensor:
    del y
    return prediction["rewards"].mean()


def _best(prediction: Prediction, y: Tensor) -> Tensor:
    del y
    return prediction["rewards"].max()
