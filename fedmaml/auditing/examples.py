"""Checks of who holds which examples."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fedmaml.auditing.repeats import Repeats, repeats_of
from fedmaml.auditing.sample import Keys, Sample, TaskKeys
from fedmaml.core.findings import Audit, Checked, Finding, Severity, first
from fedmaml.simulations.scenario import SPLITS, Split

_EVALUATED: tuple[Split, ...] = ("validation", "test")
_MANY = 0.05
"""Above this share of query examples, copies at other clients are a leak, except as below."""
_MORE = 3.0
"""Coarse data hold equal examples anyway: copies must be this many times as frequent between
clients as within one."""


def overlap_in_tasks(sample: Sample) -> Audit:
    """Find query examples that are in the support set of their own task."""
    kind = "support-query-overlap"
    audit = Audit()
    for split in SPLITS:
        by_client = {client: repeats_of(tasks) for client, tasks in sample.keys[split].items()}
        rounds = max(map(len, sample.keys[split].values()), default=0)
        how = f"split {split!r}" + f", {rounds} rounds" * (split == "train")
        audit += _looked(kind, sample, split, how)
        if finding := support_query_overlap(by_client, f"split {split!r}"):
            audit += Audit((finding,))
    return audit


def support_query_overlap(by_client: Mapping[int, Repeats], where: str) -> Finding | None:
    """Return the finding if tasks share examples between support and query.

    Args:
        by_client: Client -> what its tasks repeat, from `repeats_of`.
        where: Which tasks these are.
    """
    total = sum(by_client.values(), Repeats())
    concerned = [client for client, own in by_client.items() if own.copied]
    if not concerned:
        return None
    severity, why = total.verdict()
    detail = (
        f"{total.copied} of {total.queries} query examples ({total.share:.2%}) are in the support "
        f"set of their own task, at {len(concerned)} of {len(by_client)} clients looked at "
        f"({where}); {why}"
    )
    cure = (
        "cut one permutation of a client's examples in two; where the data hold equal examples, "
        "remove them before splitting or keep the copies on one side"
    )
    return Finding("support-query-overlap", severity, detail, cure, first(concerned))


def examples_trained_on(sample: Sample) -> Audit:
    """Find query examples of clients in their own training data."""
    kind = "test-examples-in-training"
    audit = Audit()
    for split in _EVALUATED:
        by_client: dict[int, Repeats] = {}
        for client, (task, *_) in sample.keys[split].items():
            if client in sample.keys["train"]:
                trained = _all_of(sample.keys["train"][client])
                by_client[client] = repeats_of([TaskKeys(trained, task.query)])
        if sample.populations[split]:
            audit += Audit((), (_known_clients(kind, sample, split, len(by_client)),))
        total = sum(by_client.values(), Repeats())
        concerned = [client for client, own in by_client.items() if own.copied]
        if not concerned:
            continue
        severity, why = total.verdict()
        detail = (
            f"{total.copied} of {total.queries} query examples ({total.share:.2%}, split "
            f"{split!r}) of {len(concerned)} of {len(by_client)} clients that train, too, are in "
            f"their own training data, and so in the model and in what a client remembers; {why}"
        )
        cure = (
            "hold back a client's query examples before anything else is done with its data "
            "(equal examples, if the data have such, on one side)"
        )
        audit += Audit((Finding(kind, severity, detail, cure, first(concerned)),))
    return audit


def _known_clients(kind: str, sample: Sample, split: Split, looked_at: int) -> Checked:
    known = _size_of_both(sample.populations[split], sample.populations["train"])
    how = (
        f"split {split!r}: against the client's own training data"
        if known
        else f"split {split!r}: none of its clients trains"
    )
    return Checked(kind, looked_at, known, how)


def shared_between_clients(sample: Sample) -> Audit:
    """Find examples of training clients that other clients are evaluated on or adapt on."""
    kind = "duplicates-across-clients"
    owners: dict[bytes, set[int]] = {}
    for client, tasks in sample.keys["train"].items():
        for task in tasks:
            for example in _joined(task).examples:
                owners.setdefault(example, set()).add(client)
    audit = Audit()
    for split in _EVALUATED:
        trained = len(sample.keys["train"])
        how = (
            f"split {split!r}: against {trained:,} of "
            f"{len(sample.populations['train']):,} training clients"
        )
        audit += _looked(kind, sample, split, how)
        if finding := _shared(owners, sample, split):
            audit += Audit((finding,))
    return audit


def _shared(
    owners: Mapping[bytes, Collection[int]], sample: Sample, split: Split
) -> Finding | None:
    counts, totals, equal = Counter[str](), Counter[str](), 0
    holders: set[int] = set()
    concerned: set[int] = set()
    for client, (task, *_) in sample.keys[split].items():
        for name, side in (("support", task.support), ("query", task.query)):
            totals[name] += len(side.examples)
            for example in side.examples:
                others = [owner for owner in owners.get(example, ()) if owner != client]
                if others:
                    counts[name] += 1
                    equal += len(others)
                    holders.update(others)
                    concerned.add(client)
    if not concerned:
        return None
    queries, supports = counts["query"], counts["support"]
    pairs = totals.total() * sum(_size(tasks) for tasks in sample.keys["train"].values())
    by_chance = _MORE * _equal_pairs_at_home(sample) * pairs
    many = queries > _MANY * totals["query"] and equal > by_chance
    severity: Severity = "leak" if many else "warning"
    detail = (
        f"{queries} of {totals['query']} query and {supports} of {totals['support']} support "
        f"examples of {len(concerned)} of {len(sample.keys[split])} evaluated clients looked at "
        f"(split {split!r}) are equal to examples of {len(holders)} other clients that train"
    )
    cure = (
        "give every example to one client only, and remove examples that several parties hold; "
        "if values are so coarse that different examples are equal, say so with the results"
    )
    return Finding("duplicates-across-clients", severity, detail, cure, first(concerned))


def _equal_pairs_at_home(sample: Sample) -> float:
    """Return which part of all pairs of examples of one training client are equal."""
    equal = pairs = 0
    for tasks in sample.keys["train"].values():
        counts = Counter(_joined(tasks[0]).examples)
        equal += sum(math.comb(count, 2) for count in counts.values())
        pairs += math.comb(counts.total(), 2)
    return equal / max(pairs, 1)


def _size(tasks: Sequence[TaskKeys]) -> int:
    return len(_joined(tasks[0]).examples)


def clients_seen_in_training(
    populations: Mapping[Any, Collection[int]], asked: Collection[int], rounds: int | None = None
) -> Audit:
    """Find evaluated clients that train.

    Args:
        populations: Split -> its clients.
        asked: The clients that train: those of split "train", or the cohorts of a run.
        rounds: Of the run; None: no run, so that all training clients count as asked.
    """
    kind = "test-clients-in-training"
    how = "the clients of the splits" if rounds is None else f"who was asked in {rounds} rounds"
    trained = "may train" if rounds is None else f"were asked in training (of {rounds} rounds)"
    evaluated = {
        split: populations[split] for split in _EVALUATED if len(populations.get(split, ()))
    }
    number = sum(map(len, evaluated.values()))
    audit = Audit((), (Checked(kind, number, number, how),))
    for split, clients in evaluated.items():
        both = [*_smaller(clients, asked)]
        if both:
            audit += Audit((_seen(kind, split, both, len(clients), trained),))
    if len(evaluated) == len(_EVALUATED) and (both := [*_smaller(*evaluated.values())]):
        detail = f"{len(both)} clients are in both splits, 'validation' and 'test'"
        cure = "evaluate on clients that chose nothing: let the ranges of `clients()` not overlap"
        audit += Audit((Finding(kind, "leak", detail, cure, first(both)),))
    return audit


def _seen(kind: str, split: str, both: Collection[int], evaluated: int, trained: str) -> Finding:
    detail = f"{len(both)} of {evaluated} clients of split {split!r} {trained}"
    if len(both) < evaluated:
        cure = (
            "let the ranges of `clients()` not overlap: a mean over known and new clients is of "
            "neither"
        )
        return Finding(kind, "leak", detail, cure, first(both))
    return Finding(
        kind,
        "note",
        f"{detail}: results are of known clients, and say nothing of new ones",
        "say so with the results; for new clients, hold whole clients back from training",
        first(both),
    )


def _smaller(left: Collection[int], right: Collection[int]) -> Iterator[int]:
    """Yield what two collections have in common, by a walk through the smaller one."""
    few, many = sorted((left, right), key=len)
    many = many if isinstance(many, range) else frozenset(many)
    return (client for client in few if client in many)


def _size_of_both(left: range, right: range) -> int:
    return max(0, min(left.stop, right.stop) - max(left.start, right.start))


def _looked(kind: str, sample: Sample, split: Split, how: str) -> Audit:
    looked_at, of = len(sample.keys[split]), len(sample.populations[split])
    return Audit((), (Checked(kind, looked_at, of, how),)) if of else Audit()


def _joined(task: TaskKeys) -> Keys:
    return Keys(*(left + right for left, right in zip(*task, strict=True)))


def _all_of(tasks: Sequence[TaskKeys]) -> Keys:
    """Return a client's examples over several rounds, each as often as the round that has most."""
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for task in tasks:
        examples, labels = _joined(task)
        counts |= Counter(zip(examples, labels or [b""] * len(examples), strict=True))
    pairs = [*counts.elements()]
    labelled = any(label for _, label in pairs)
    examples = tuple(example for example, _ in pairs)
    return Keys(examples, tuple(label for _, label in pairs) if labelled else ())
