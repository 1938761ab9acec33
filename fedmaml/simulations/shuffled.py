"""Scenarios without anything to learn: labels are shuffled, or supports are other clients'.

A method that does better than chance on such a scenario sees what it should not. Where a client's
examples differ by noise alone, shuffling changes nothing; there supports are exchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.losses import IGNORED
from fedmaml.core.params import Params
from fedmaml.core.tasks import Task, TaskGroup, group_by_shape, unstack
from fedmaml.core.trees import Tree, length, map_tree
from fedmaml.simulations.scenario import Scenario, Split


@lru_cache(maxsize=32)
def with_shuffled_labels(scenario: type[Scenario]) -> type[Scenario]:
    """Return a scenario whose clients have their labels in random order.

    Support and query are shuffled apart, so each keeps its labels and their frequencies, and
    nothing that inputs tell about them. (Shuffled together, a label that is frequent in a client's
    support would be rare in its query, and who adapts would be below chance.) Where one example
    holds all classes, of a graph's nodes, they are shuffled within it. Training clients are
    shuffled anew in every round.
    """

    class Shuffled(scenario):  # type: ignore[misc, valid-type]
        def tasks(
            self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
        ) -> list[TaskGroup]:
            groups = super().tasks(split, clients, round, shared_statistics)
            draw = seeding.key(self.seed, "shuffled labels", split, round * (split == "train"))
            return [_shuffled(group, draw) for group in groups]

    return Shuffled


@lru_cache(maxsize=32)
def with_exchanged_supports(scenario: type[Scenario]) -> type[Scenario]:
    """Return a scenario whose clients have the support of the next client of their split.

    What all clients share can be learned, from whosever support; what is a client's own cannot.
    Where a split has one client, its tasks are refused (ConfigurationError).
    """

    class Exchanged(scenario):  # type: ignore[misc, valid-type]
        def tasks(
            self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
        ) -> list[TaskGroup]:
            held = self.clients()[split]
            if len(held) == 1:
                raise ConfigurationError(
                    f"labels = exchanged: the scenario has one {split} client, so there is no "
                    "other's support for it; take settings with two, or labels = shuffled"
                )
            others = {client: held[(held.index(client) + 1) % len(held)] for client in clients}
            asked = tuple(dict.fromkeys([*clients, *others.values()]))
            groups = super().tasks(split, asked, round, shared_statistics)
            tasks = {client: task for group in groups for client, task in unstack(group).items()}
            return group_by_shape(
                {
                    client: tasks[client]._replace(support=tasks[other].support)
                    for client, other in others.items()
                }
            )

    return Exchanged


def _shuffled(group: TaskGroup, draw: int) -> TaskGroup:
    parts = (
        batch._replace(y=_in_random_order(group.clients, batch.y, seeding.key(draw, part)))
        for part, batch in zip(Task._fields, group.tasks, strict=True)
    )
    return TaskGroup(group.clients, Task(*parts))


def _in_random_order(clients: Sequence[int], labels: Tree, draw: int) -> Tree:
    if isinstance(labels, torch.Tensor) and labels.shape[1] == 1 and not labels.is_floating_point():
        return _within_an_example(clients, labels, draw)
    order = seeding.permutation(draw, clients, length(labels, axis=1))
    own = torch.arange(len(clients))[:, None]
    return map_tree(lambda values: values[own, order], labels)


def _within_an_example(clients: Sequence[int], labels: Tensor, draw: int) -> Tensor:
    """Shuffle the known classes of each client's only example; the others stay unknown."""
    flat = labels.flatten(1)
    mixed = flat.gather(1, seeding.permutation(draw, clients, flat.shape[1]))
    found = flat.clone()
    found[flat != IGNORED] = mixed[mixed != IGNORED]  # as many in every row as before
    return found.view_as(labels)


NULLS: Mapping[str, Callable[[type[Scenario]], type[Scenario]]] = {
    "shuffled": with_shuffled_labels, "exchanged": with_exchanged_supports,
}  # fmt: skip
"""What each value of the setting ``labels`` makes of a scenario."""
