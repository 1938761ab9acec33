"""Equalised odds over groups that are clients: a penalty, common rates, figures and references.

Targets are rows of a label and of the two common rates, t1 and t0; `scenarios.fairness` has the
equations.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedmaml.core import losses
from fedmaml.core.figures import Clients, Figure, equalised_odds_gap
from fedmaml.core.learner import Predictor
from fedmaml.core.linear import with_ones
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch
from fedmaml.simulations import references
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients

_PERMUTATIONS = 10
_TARGETS = references.Targets(lambda y: references.BINARY.encode(y[:, 0]), references.BINARY.decode)


def penalised(logits: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Return cross entropies, ``(examples,)``, each plus the penalty of unequal rates.

        penalty [(mean p over positives - t1)^2 + (mean p over negatives - t0)^2]

    Args:
        logits: ``(examples, 1)``.
        y: Label, t1 and t0, ``(examples, 3)``.
        penalty: Its weight; a rate that the examples do not define costs nothing.
    """
    label = y[:, 0]
    plain = losses.binary_cross_entropy(logits, label)
    if penalty == 0:
        return plain
    probability, unequal = logits[:, 0].sigmoid(), torch.zeros_like(plain[0])
    for chosen, rate in ((label, y[0, 1]), (1 - label, y[0, 2])):
        mean = (chosen * probability).sum() / chosen.sum().clamp(min=1)
        unequal = unequal + torch.where(chosen.sum() > 0, (mean - rate).square(), 0)
    return plain + penalty * unequal


def sums_of_rates(x: Tensor, y: Tensor) -> Params:
    """Return a client's sums for `common_rates`.

    Args:
        x: float64 ``(people, columns)``.
        y: Labels, float64 ``(people,)``.
    """
    ones = with_ones(x)
    return {"gram": (ones.T @ ones).flatten(), "positives": ones.T @ y}


def common_rates(totals: Params) -> tuple[float, float]:
    """Return t1 and t0: the least-squares fit's mean prediction over positives and negatives."""
    columns = len(totals["positives"])
    gram, positives = totals["gram"].view(columns, columns), totals["positives"]
    weights = torch.linalg.lstsq(gram, positives[:, None], driver="gelsd").solution[:, 0]
    negatives = gram[:, -1] - positives
    return float(weights @ positives / positives[-1]), float(weights @ negatives / negatives[-1])


def figures(label: str, largest: tuple[str, ...]) -> tuple[Figure, ...]:
    """Return the gap of equalised odds of all groups, of the largest, and of random groups.

    Random groups have the sizes of the true ones: their gap is what sampling makes of no
    difference. It is the mean of ten permutations of the clients' labels.

    Args:
        label: The label whose groups are compared.
        largest: Names of the largest groups.
    """
    everyone = equalised_odds_gap(label)

    def of_largest(clients: Clients) -> float:
        names = np.array(clients.names[label])[clients.group(label)]
        return everyone(clients.take(np.flatnonzero(np.isin(names, largest))))

    def of_random(clients: Clients) -> float:
        groups, rng = clients.group(label), np.random.default_rng(0)
        orders = [rng.permutation(groups) for _ in range(_PERMUTATIONS)]
        return float(
            np.mean([everyone(replace(clients, groups={label: order})) for order in orders])
        )

    return (
        everyone,
        replace(everyone, name="equalised odds gap, 2 largest groups", function=of_largest),
        replace(everyone, name="equalised odds gap, random groups", function=of_random),
    )


def references_of(penalty: float) -> tuple[Reference, ...]:
    """Return the base rate, and logistic regressions: for all, penalised, and with thresholds.

    Args:
        penalty: Weight of unequal rates in the loss of the second; without, it is not there.
    """
    shifted = "the same with a threshold per group, whose rates on the support are the common ones"
    same = "one logistic regression for all groups, with the penalty of each group in its loss"
    blind = partial(_penalised_for_all, penalty=penalty)
    return (
        references.constant(_TARGETS, "base rate"),
        references.pooled_logistic_regression(_TARGETS),
        *[Reference("pooled with penalty", same, blind, federated=False)] * (penalty > 0),
        Reference("thresholds by group", shifted, _thresholds, federated=False),
    )


def _penalised_for_all(clients: TrainingClients, penalty: float) -> Adapt:
    """Minimise the mean over people of `penalised`, in float64."""
    parts = clients.examples()
    groups = [(with_ones(part.x).double(), part.y.double()) for part in parts]
    weights = torch.zeros(groups[0][0].shape[1], 1, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        descent.zero_grad()
        every = [penalised(x @ weights, y, penalty) for x, y in groups]
        mean = torch.cat(every).mean()
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    descent.step(loss)  # type: ignore[no-untyped-call]
    found = weights.detach()
    return lambda _support: lambda x: (with_ones(x).double() @ found).to(x.dtype)


def _thresholds(clients: TrainingClients) -> Adapt:
    predict = references.pooled_logistic(clients, _TARGETS)

    def adapt(support: Batch) -> Predictor:
        score, label = predict(support.x)[:, 0], support.y[:, 0] > 0.5
        said = score[None] >= score[:, None]  # row: threshold
        unequal = sum(
            (said[:, chosen].double().mean(1) - rate).square()
            for chosen, rate in ((label, support.y[0, 1]), (~label, support.y[0, 2]))
            if chosen.any()
        )
        threshold = score[unequal.argmin()]
        return lambda x: predict(x) - threshold

    return adapt
