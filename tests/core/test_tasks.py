"""Tasks: joining, counting, grouping and casting."""

import torch

from fedmaml.core.tasks import Batch, Task, cast, example_count, group_by_shape, joined, stack


def task(examples: int, value: float = 0.0) -> Task:
    support = Batch(torch.full((examples, 2), value), torch.zeros(examples, dtype=torch.int64))
    query = Batch(torch.full((3, 2), value + 1), torch.ones(3, dtype=torch.int64))
    return Task(support, query)


def test_joined_puts_support_before_query() -> None:
    everything = joined(task(2))
    assert everything.x[:, 0].tolist() == [0, 0, 1, 1, 1]
    assert everything.y.tolist() == [0, 0, 1, 1, 1]


def test_example_count_is_a_double_scalar_that_passes_vmap() -> None:
    tasks = stack([task(2), task(2)])
    count = torch.func.vmap(lambda one: example_count(joined(one)))(tasks)
    assert count.tolist() == [5.0, 5.0]
    assert count.dtype == torch.float64


def test_group_by_shape_keeps_the_order_of_the_mapping() -> None:
    groups = group_by_shape({7: task(2, 7), 3: task(4, 3), 5: task(2, 5)})
    assert [group.clients for group in groups] == [(7, 5), (3,)]
    assert groups[0].tasks.support.x.shape == (2, 2, 2)
    assert groups[0].tasks.support.x[:, 0, 0].tolist() == [7, 5]
    assert groups[1].tasks.support.x.shape == (1, 4, 2)


def test_groups_hold_every_client_once() -> None:
    groups = group_by_shape({client: task(1 + client % 3) for client in range(10)})
    assert sorted(client for group in groups for client in group.clients) == list(range(10))


def test_cast_leaves_class_indices_and_the_given_task_alone() -> None:
    given = task(2)
    double = cast(given, torch.float64)
    assert double.support.x.dtype == double.query.x.dtype == torch.float64
    assert double.support.y.dtype == torch.int64
    assert given.support.x.dtype == torch.float32
