"""Novelty: scores of examples that are of no known class, and rivals that no gradient trains.

Labels 0 .. K-1 are known classes, K is "none of them". A score is minus the largest of the first K
outputs; a reference writes its own score, with the sign changed, into all outputs.

Hendrycks et al. Scaling Out-of-Distribution Detection for Real-World Settings. ICML 2022 (the
largest logit); Lee et al. A Simple Unified Framework for Detecting Out-of-Distribution Samples.
NeurIPS 2018 (Mahalanobis); Liu, Ting, Zhou. Isolation Forest. ICDM 2008.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from fedmaml.core.learner import Predictor
from fedmaml.core.metrics import precision_at, roc_auc
from fedmaml.core.tasks import Batch
from fedmaml.simulations import references
from fedmaml.simulations.reference import Adapt, Reference, TrainingClients

_TREES = 200

Score = Callable[[Tensor], Tensor]
"""Inputs -> how new each example looks, ``(examples,)``."""


def novelty(logits: Tensor) -> Tensor:
    """Return minus the largest logit of a known class; all but the last are."""
    return -logits[:, :-1].amax(1)


def auroc(logits: Tensor, y: Tensor) -> Tensor:
    """Return the probability that an anomaly scores above a known example, ties counted half."""
    return roc_auc(novelty(logits)[:, None], _is_new(logits, y))


def precision_at_20(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of anomalies among the 20 examples that look newest."""
    return precision_at(20)(novelty(logits)[:, None], _is_new(logits, y))


def _is_new(logits: Tensor, y: Tensor) -> Tensor:
    return (y == logits.shape[1] - 1).to(logits.dtype)


# --- rivals -----------------------------------------------------------------------------------


def references_of(known: int, features: int, period: int | None) -> tuple[Reference, ...]:
    """Return the rivals, all fitted on the support; their settings are chosen on validation.

    Args:
        known: Number of known classes.
        features: Of an example.
        period: The feature that is a logarithm of a period, whose smallness is a rival; or None.
    """
    rival = partial(_rival, known)

    single = rival(
        "best single feature", "one feature, large or small values of it", _of_feature,
        feature=tuple(range(-features, features)),
    )  # fmt: skip
    shortest = rival(
        "shortest period", "the period alone, which defines delta Scuti", _of_feature,
        feature=(-1 - (period or 0),),
    )  # fmt: skip
    return (
        rival("isolation forest", "isolation forest on all known stars", _isolation),
        rival("Mahalanobis", "the distance to the nearest class mean, by a shrunk covariance",
              _mahalanobis, covariance=("shared", "own", "none")),
        rival("nearest neighbours", "the distance to the k-th nearest known star",
              _neighbours, k=(1, 3, 5, 10)),
        references.nearest_class_mean(known + 1),
        references.random_forest(references.classes(known + 1), pooled=False),
        single,
        *([shortest] if period is not None else []),
    )  # fmt: skip


def _rival(
    known: int, name: str, about: str, fit: Callable[..., Score], **grid: tuple[Any, ...]
) -> Reference:
    """Return a reference of one setting, or of none."""

    def fitted(_clients: TrainingClients, **setting: Any) -> Adapt:
        def adapt(support: Batch) -> Predictor:
            score = fit(support, **setting)
            return lambda x: -score(x)[:, None].to(x.dtype).expand(len(x), known + 1)

        return adapt

    settings = tuple({key: value} for key, values in grid.items() for value in values)
    return Reference(name, about, fitted, grid=settings or ({},))


def _isolation(support: Batch) -> Score:
    from sklearn.ensemble import IsolationForest  # most of a second

    forest = IsolationForest(n_estimators=_TREES, random_state=0).fit(support.x.numpy())
    return lambda x: torch.from_numpy(-forest.score_samples(x.numpy()))


def _mahalanobis(support: Batch, covariance: Literal["shared", "own", "none"]) -> Score:
    """Return the squared distance to the nearest class mean; covariances are shrunk.

    Ledoit, Wolf. A well-conditioned estimator for large-dimensional covariance matrices. JMVA 88,
    2004.
    """
    from sklearn.covariance import ledoit_wolf

    x = support.x.double()
    kinds = [x[support.y == kind] for kind in sorted(set(support.y.tolist()))]
    means = [kind.mean(0) for kind in kinds]
    around = [kind - mean for kind, mean in zip(kinds, means, strict=True)]
    whole = [torch.cat(around)] * len(kinds) if covariance == "shared" else around
    inverses = [
        torch.eye(x.shape[1], dtype=x.dtype)
        if covariance == "none"
        else torch.linalg.inv(torch.from_numpy(ledoit_wolf(rest.numpy(), assume_centered=True)[0]))
        for rest in whole
    ]

    def score(inputs: Tensor) -> Tensor:
        rests = [inputs.double() - mean for mean in means]
        pairs = zip(rests, inverses, strict=True)
        return torch.stack([((rest @ inverse) * rest).sum(1) for rest, inverse in pairs]).amin(0)

    return score


def _neighbours(support: Batch, k: int) -> Score:
    def score(x: Tensor) -> Tensor:
        distances = torch.cdist(x, support.x, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.kthvalue(min(k, len(support.x)), dim=1).values

    return score


def _of_feature(_support: Batch, feature: int) -> Score:
    """Return a feature; from -1 on downwards the first, second, ... with the other sign."""
    return lambda x: x[:, feature] if feature >= 0 else -x[:, -1 - feature]
