"""Trading: does a policy that adapts to a share earn more after costs? On these data: no.

A client is a share (S&P 500, 2013 to 2018). A network of 9-16-1 sees past returns only
(`environments.prices`), and sets a position at each close, held for the next day; a trade costs
``costs``. The support are the last 60 days, three windows of 20; the query are the next 20. The
loss of a window is -(100 mean - 2.5 var(10 earned)). Shares that train, and those evaluated, are
different, and so are the years: training ends where the evaluation of 2016-02-08 to 2018-02-07
begins. An evaluated client is a share in one of its windows, which follow each other; intervals
draw whole windows, because shares of one month move together.

``target = "hedged"`` takes from each return that of all training shares, so that a rising market
earns nothing. Three controls show that an edge would be found, and only an edge: "positive",
made-up returns that depend on those before, with another sign at each share; "negative", a share's
own returns in random order; "leak", features of the day after (`systems.shares`). A Sharpe
ratio above 5 on prices is an alarm, not a result.

The companies are those of 2018 (survivorship bias), dividends are missing, and 20 days are traded
at a time. Not investment advice. Finn, Abbeel, Levine. MAML. ICML 2017. arXiv:1703.03400.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from fedmaml.core import seeding
from fedmaml.core.figures import Clients, Figure, mean
from fedmaml.core.learner import Predictor, Problem
from fedmaml.core.metrics import Metric
from fedmaml.core.networks import MLP
from fedmaml.core.params import Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.core.trees import Tree
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.environments import prices
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.systems.shares import SHARES, order_of, panel

ALARM = 5.0
"""A Sharpe ratio that prices do not allow."""

_DAYS_A_YEAR, _WINDOW, _SUPPORT = 252, 20, 3
_TRAIN, _VALIDATION = 270, 30  # shares; the others test
_FIRST, _TURN = 80, 754  # 2013-06-05 and 2016-02-08
_VALIDATION_WINDOWS, _TEST_WINDOWS = 5, 25
_META = {"inner.lr": 0.1, "inner.steps": 1, "outer.lr": 0.01}
_AVERAGING = {"inner.lr": 0.1, "inner.steps": 1, "outer.optimizer": "adam", "outer.lr": 0.01,
              "adaptation.lr": 0.1, "adaptation.steps": 1}  # fmt: skip
_WEEK = 5
_WEEKS = tuple(f"week {week}" for week in range(1, _WINDOW // _WEEK + 1))


class Trader(nn.Module):
    """Features and scale of each day to a position."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = MLP((prices.FEATURES, 16, 1), torch.tanh)

    def forward(self, x: Tree) -> Tensor:
        """Map windows to positions ``(windows, days)``."""
        return torch.tanh(self.policy(x["features"])[..., 0]) * x["scale"]


@settings
class Trading(Scenario):
    """Shares as clients.

    Attributes:
        seed: Determines which shares train, windows and controls.
        data: Prices, or a control: "positive", "negative" or "leak".
        target: "raw" returns, or "hedged" by those of all training shares.
        costs: Of a trade, a share of what is traded.
        data_dir: Folder with the data, see `datasets.sp500.load`; the positive control needs none.
    """

    about: ClassVar[str] = "S&P 500 by share, positions after costs (real); three controls"
    recipes: ClassVar[Recipes] = {
        "*": {"rounds": 400, "clients": 32, "evaluation.steps": [5]},
        "local": {"rounds": 0, "inner.lr": 0.1, "inner.steps": 1},
        "fedavg": _AVERAGING | {"outer.optimizer": "sgd", "outer.lr": 1.0},
        "fedadam": _AVERAGING,
        "fedprox": _AVERAGING | {"mu": 0.01},
        "reptile": _AVERAGING,
        "maml": _META, "fomaml": _META, "meta_sgd": _META,
    }  # fmt: skip

    seed: int = 0
    data: Literal["sp500", "positive", "negative", "leak"] = "sp500"
    target: Literal["raw", "hedged"] = "raw"
    costs: Annotated[float, Ge(0), Le(0.1)] = 5e-4
    data_dir: str = ""

    def problem(self) -> Problem:
        def of_year(position: Tensor, y: Tensor) -> Tensor:
            return 100 * _DAYS_A_YEAR * self._earned(position, y).mean()

        def by_week(position: Tensor, y: Tensor) -> dict[str, Tensor]:
            weeks = self._earned(position, y).mean(0).view(-1, _WEEK).sum(-1)
            return dict(zip(_WEEKS, weeks.unbind(), strict=True))

        metrics = (
            Metric("return", "% a year", "higher", -math.inf, of_year),
            Metric("earned", "1", "neither", math.nan, by_week, _WEEKS),
        )
        return Problem(Trader, self._loss, metrics, head="", ordered=True)

    def clients(self) -> dict[Split, range]:
        test = SHARES - _TRAIN - _VALIDATION
        return numbered(_TRAIN, _VALIDATION * _VALIDATION_WINDOWS, test * _TEST_WINDOWS)

    def max_examples(self, client: int) -> int:
        return _SUPPORT + 1

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        hedge = _TRAIN + _VALIDATION if self.target == "hedged" else 0
        data = panel(self.data, hedge, self.data_dir, self.seed)
        if split == "train":
            draw = seeding.key(self.seed, "trading", "windows", round)
            first, last = _FIRST + _SUPPORT * _WINDOW + 1, _TURN - _WINDOW
            u = seeding.uniform(draw, clients)
            today = (first + (last - first) * u).long()
        else:
            today = torch.tensor([self._place(client)[1] for client in clients])
        share = torch.tensor([self._place(client)[0] for client in clients])
        row = order_of(self.seed)[share]
        sides = []
        for begins in (range(-_SUPPORT * _WINDOW, 0, _WINDOW), (0,)):
            offset = torch.tensor(begins)[:, None] + torch.arange(-1, _WINDOW)
            days = today[:, None, None] + offset
            at = (row[:, None, None], days)
            x = {"features": data.features[at], "scale": data.scale[at]}
            sides.append(Batch(x, data.later[at]))
        return [TaskGroup(tuple(clients), Task(*sides))]

    def references(self) -> tuple[Reference, ...]:
        rules = (
            ("buy and hold", "always the largest position", lambda f: torch.ones_like(f[..., 0])),
            ("momentum", "the sign of the last 60 days", lambda f: f[..., 8].sign()),
            ("reversal", "against the last 5 days", lambda f: -f[..., 5].sign()),
        )
        return tuple(Reference(name, about, partial(_by_rule, rule)) for name, about, rule in rules)

    def figures(self) -> tuple[Figure, ...]:
        return (
            mean(self.problem().metrics[0], "window"),
            Figure("Sharpe ratio", "1", "higher", sharpe, "window"),
            Figure("look-ahead alarm", "1", "lower", lambda c: float(sharpe(c) > ALARM), "window"),
        )

    def groups(self, client: int) -> Mapping[str, str]:
        return {"window": f"{self._place(client)[1]:04d}"}

    def _place(self, client: int) -> tuple[int, int]:
        """Return a client's share, by its place in `_order`, and the day of its query."""
        if client < _TRAIN:
            return client, 0
        client -= _TRAIN
        if client < _VALIDATION * _VALIDATION_WINDOWS:
            share, window = divmod(client, _VALIDATION_WINDOWS)
            return _TRAIN + share, _TURN - (_VALIDATION_WINDOWS - window) * _WINDOW
        share, window = divmod(client - _VALIDATION * _VALIDATION_WINDOWS, _TEST_WINDOWS)
        return _TRAIN + _VALIDATION + share, _TURN + window * _WINDOW

    def _earned(self, position: Tensor, later: Tensor) -> Tensor:
        """Return earnings of the days of windows; day 0 is there for the first trade alone."""
        return prices.earned(position, later, self.costs)[..., 1:]

    def _loss(self, position: Tensor, y: Tensor) -> Tensor:
        earned = self._earned(position, y)
        return -(100 * earned.mean(-1) - 2.5 * (10 * earned).var(-1))


def sharpe(clients: Clients) -> float:
    """Return the yearly Sharpe ratio of all shares together, whose windows follow each other."""
    weeks = [each["earned"].mean(0) for each in clients.of("window").values()]
    joint = np.concatenate(weeks)
    return float(joint.mean() / joint.std(ddof=1) * math.sqrt(_DAYS_A_YEAR / _WEEK))


def _by_rule(rule: Callable[[Tensor], Tensor], _clients: TrainingClients) -> Adapt:
    def predict(x: Tree) -> Tensor:
        return rule(x["features"]) * x["scale"]

    def adapt(_support: Batch) -> Predictor:
        return predict

    return adapt
