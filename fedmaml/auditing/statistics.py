"""Check of the examples with which inputs were centred.

Centring makes the mean zero over exactly the examples that gave the mean. So a feature
whose mean is zero over training *and* evaluated examples, but not over the training examples, was
centred with the examples of evaluated clients. A feature whose mean is zero over the support *and*
query of an evaluated client, but not over its support, was centred with that client's query.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fedmaml.auditing.sample import Sample
from fedmaml.core.findings import Audit, Checked, Finding, NotChecked, first
from fedmaml.core.tasks import Batch, Task, joined
from fedmaml.core.trees import leaves

_KIND = "statistics-from-test-data"
_ZERO = 1e-5
"""A mean below this many standard deviations is zero up to rounding in float32."""
_MIN_SHARE = 0.1
"""Of the features; by chance, one mean in ten thousand is as small."""
_ENOUGH = 16
"""Clients whose own means are examined: all are prepared alike."""
_CURE = (
    "take means and scales from training clients alone, through `statistics`, or, for each client, "
    "from its support examples"
)


def statistics_from_evaluated_clients(sample: Sample) -> Audit:
    """Find inputs that were centred with examples of evaluated clients."""
    test = sample.tasks["test"]
    of = len(sample.populations["test"])
    audit = Audit((), (Checked(_KIND, len(test), of, "means of inputs and of real targets"),))
    some = sorted(test)[:_ENOUGH]
    centred = [client for client in some if _by_its_own_query(test[client])]
    if len(centred) >= 2 and 2 * len(centred) >= len(some):
        detail = (
            f"at {len(centred)} of {len(some)} test clients looked at, inputs have the mean 0 and "
            "the deviation 1 over support and query together, and not over the support"
        )
        return audit + Audit((Finding(_KIND, "leak", detail, _CURE, first(centred)),))
    why = "" if sample.whole() else "means over all clients need all clients; this is a sample"
    if len({_features(task.support).shape[1] for task in sample.every_task()}) > 1:
        why = "clients have inputs of different sizes, so there are no means over all of them"
    if why:
        return audit + Audit((), (), (NotChecked(_KIND, why),))
    trained, everyone = _values(sample.tasks["train"].values()), _values(sample.every_task())
    evaluated = _values(test.values()) if test else everyone
    for name, values in (("training and evaluated clients", everyone), ("test clients", evaluated)):
        found = _centred(values) & ~_centred(trained)
        if _many(found, values):
            detail = (
                f"{int(found.sum())} of {values.shape[1]} inputs have the mean 0 over the examples "
                f"of all {name}, and not over those of the training clients"
            )
            audit += Audit((Finding(_KIND, "leak", detail, _CURE, first(test)),))
            break
    return audit


def _by_its_own_query(task: Task) -> bool:
    support, everything = _features(task.support), _features(joined(task))
    deviation = everything.std(0, correction=0)
    unit = ((deviation - 1).abs() < 1e-3) | ((everything.std(0) - 1).abs() < 1e-3)
    return _many(_centred(everything) & unit & ~_centred(support), everything)


def _many(found: Tensor, values: Tensor) -> bool:
    return int(found.sum()) >= max(1.0, _MIN_SHARE * int(_varied(values).sum()))


def _centred(values: Tensor) -> Tensor:
    """Return which features have the mean 0."""
    return _varied(values) & (values.mean(0).abs() <= _ZERO * values.std(0, correction=0))


def _varied(values: Tensor) -> Tensor:
    """Return which features take more than two values; two may be balanced by design."""
    if not len(values):
        return torch.zeros(values.shape[1], dtype=torch.bool)
    ends = (values == values.amin(0)) | (values == values.amax(0))
    return ~ends.all(0)


def _values(tasks: Iterable[Task]) -> Tensor:
    """Return all examples of some tasks, each as often as it is held, float64."""
    parts = [_features(joined(task)) for task in tasks]
    return torch.cat(parts)


def _features(batch: Batch) -> Tensor:
    """Return inputs and, if they are real numbers, targets, float64 ``(examples, features)``."""
    values = leaves(batch.x) + [value for value in leaves(batch.y) if value.is_floating_point()]
    return torch.cat([value[:, None].flatten(1).double() for value in values], 1)
