"""The clients that an audit looks at, and their examples as keys that can be compared.

Scenarios with a hundred thousand clients are audited by a sample, which is drawn from the seed.
"""

import hashlib
import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.params import Params
from fedmaml.core.tasks import Batch, Task, cast, rows_of, task_at, tensors_of
from fedmaml.core.trees import Tree
from fedmaml.simulations.scenario import SPLITS, Scenario, Split, totals_of

logger = logging.getLogger("fedmaml")


class Extent(NamedTuple):
    """The size of an audit's sample.

    Attributes:
        clients: Most clients of a split.
        rounds: Number of training rounds.
        megabytes: Most data of a split, but always two clients.
    """

    clients: int
    rounds: int
    megabytes: int


IN_A_RUN = Extent(clients=64, rounds=3, megabytes=8)
THOROUGH = Extent(clients=1000, rounds=5, megabytes=500)


class Keys(NamedTuple):
    """A batch to be compared: equal examples (inputs and target) have equal keys.

    Attributes:
        examples: 16 bytes for each example.
        labels: The target of each; empty if targets are not classes.
    """

    examples: tuple[bytes, ...]
    labels: tuple[bytes, ...]


class TaskKeys(NamedTuple):
    """A task to be compared."""

    support: Keys
    query: Keys


@dataclass(frozen=True)
class Sample:
    """The sample that an audit examines.

    Attributes:
        populations: All clients of each split.
        tasks: Split -> client -> its first task.
        keys: Split -> client -> its tasks, one for each round ("train") or one.
        unreadable: Clients whose tasks could not be made.
    """

    populations: Mapping[Split, range]
    tasks: Mapping[Split, Mapping[int, Task]]
    keys: Mapping[Split, Mapping[int, tuple[TaskKeys, ...]]]
    unreadable: tuple[int, ...]

    def whole(self) -> bool:
        """Return whether the sample holds all clients."""
        return all(len(self.tasks[split]) == len(self.populations[split]) for split in SPLITS)

    def every_task(self) -> list[Task]:
        """Return the first task of every client in every split."""
        return [task for of_split in self.tasks.values() for task in of_split.values()]


def draw(
    scenario: Scenario,
    seed: int,
    dtype: torch.dtype,
    extent: Extent,
    splits: Collection[Split] = SPLITS,
) -> Sample:
    """Choose clients and make their tasks.

    Clients that are evaluated and train as well are preferred among those that train.

    Args:
        scenario: Makes the tasks.
        seed: Determines the choice.
        dtype: That of the run; examples that are equal in it count as equal.
        extent: Size of the sample.
        splits: Splits whose clients may be read.

    Raises:
        Exception: The scenario's error, if no client of a split can be read.
    """
    clients = scenario.clients()
    populations = {split: clients[split] if split in splits else range(0) for split in SPLITS}
    shared_statistics = _shared_statistics(scenario, populations["train"], seed, extent)
    tasks: dict[Split, dict[int, Task]] = {}
    keys: dict[Split, dict[int, tuple[TaskKeys, ...]]] = {}
    unreadable: list[int] = []
    evaluated: set[int] = set()
    for split in reversed(SPLITS):
        rounds = range(1, 1 + (extent.rounds if split == "train" else 1))

        def made(clients: Sequence[int], round: int, split: Split = split) -> dict[int, Task]:
            each: dict[int, Task] = {}
            for group in scenario.tasks(split, clients, round, shared_statistics):
                each |= zip(group.clients, _single(cast(group.tasks, dtype)), strict=True)
            return each

        wanted = _choose(populations[split], seed, extent.clients, evaluated)
        if not wanted:
            tasks[split], keys[split] = {}, {}
            continue
        size = _bytes_of(made, wanted[0], len(rounds))
        wanted = wanted[: max(2, int(extent.megabytes * 1e6 / size))] if size else wanted
        evaluated |= set(wanted)
        drawn = [_readable(made, sorted(wanted), round, unreadable) for round in rounds]
        tasks[split] = drawn[0]
        keys[split] = {
            client: tuple(keys_of(each[client]) for each in drawn if client in each)
            for client in drawn[0]
        }
    return Sample(populations, tasks, keys, tuple(sorted(set(unreadable))))


def keys_of(task: Task) -> TaskKeys:
    """Return the keys of a task's examples."""
    return TaskKeys(_keys(task.support), _keys(task.query))


def _keys(batch: Batch) -> Keys:
    rows = np.concatenate([_bytes(value) for value in tensors_of(batch)], axis=1)
    examples = tuple(hashlib.blake2b(row, digest_size=16).digest() for row in rows)
    return Keys(examples, _labels(batch.y))


def _labels(y: Tree) -> tuple[bytes, ...]:
    """Return the bytes of each target if targets are classes; else ()."""
    if isinstance(y, dict) or (y.is_floating_point() and len(np.unique(y.numpy())) > 2):
        return ()
    return tuple(row.tobytes() for row in _bytes(y))


def _bytes(value: Tensor) -> np.ndarray:
    """Return each example's bytes, uint8 of shape ``(examples, bytes)``; -0 is 0."""
    rows = value.detach().cpu()[:, None].flatten(1)
    rows = rows + 0 if rows.is_floating_point() else rows
    return np.ascontiguousarray(rows.numpy()).view(np.uint8)


def _single(tasks: Task) -> list[Task]:
    """Return the tasks of a group one by one."""
    return [task_at(tasks, row) for row in range(rows_of(tasks.query, 0))]


def _shared_statistics(scenario: Scenario, training: range, seed: int, extent: Extent) -> Params:
    """Return the totals of the training clients' statistics; of a sample if they are many."""
    return totals_of(scenario, sorted(_choose(training, seed, extent.clients, ())))


def _choose(population: range, seed: int, most: int, preferred: Iterable[int]) -> list[int]:
    """Choose clients, preferred ones first."""
    if len(population) <= most:
        return list(population)
    known = [client for client in sorted(preferred) if client in population][:most]
    rng = random.Random(seeding.key(seed, "audit", population.start, population.stop))
    others = (client for client in rng.sample(population, most) if client not in known)
    return [*known, *others][:most]


def _bytes_of(
    made: Callable[[Sequence[int], int], Mapping[int, Task]], client: int, rounds: int
) -> int:
    """Return the bytes of one client's data in some rounds; 0 if unknown."""
    try:
        task = made([client], 1)[client]
    except Exception:  # the client counts as unreadable later
        return 0
    return rounds * sum(value.nbytes for batch in task for value in tensors_of(batch))


def _readable(
    made: Callable[[Sequence[int], int], dict[int, Task]],
    clients: Sequence[int],
    round: int,
    unreadable: list[int],
) -> dict[int, Task]:
    """Make the tasks of those clients whose data can be read; others are left out of a run, too."""
    try:
        return made(clients, round)
    except Exception as error:
        if len(clients) == 1:
            raise
        first_error = error
    tasks: dict[int, Task] = {}
    for client in clients:
        try:
            tasks |= made([client], round)
        except Exception as error:
            logger.debug("audit: client %d cannot be read", client, exc_info=error)
            unreadable.append(client)
    if not tasks:
        raise first_error
    return tasks
