"""Tasks: joining, counting, grouping and casting."""

import pytest
import torch

from fedmaml.core.tasks import (
    Batch,
    Task,
    TaskGroup,
    cast,
    example_count,
    first_shots,
    group_by_shape,
    joined,
    stack,
    unstack,
)


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


def test_unstack_undoes_stacking() -> None:
    tasks = {7: task(2, 7), 3: task(2, 3)}
    (group,) = group_by_shape(tasks)
    for client, single in unstack(group).items():
        for ours, theirs in zip(single, tasks[client], strict=True):
            assert torch.equal(ours.x, theirs.x)
            assert torch.equal(ours.y, theirs.y)


@pytest.mark.parametrize(
    ("count", "classes", "rows"),
    [
        (1, 3, [0, 1, 3]),
        (2, 3, [0, 1, 2, 3]),
        (3, 3, [0, 1, 2, 3, 4]),  # class 2 has three examples, class 0 and 1 one
        (4, 3, None),
        (2, None, [0, 1]),
        (5, None, [0, 1, 2, 3, 4]),
        (6, None, None),
    ],
)
def test_first_shots_are_of_each_class_or_of_all(count, classes, rows) -> None:
    support = Batch(torch.arange(5.0)[:, None], torch.tensor([2, 0, 2, 1, 2]))
    group = TaskGroup((7,), stack([Task(support, support)]))
    groups, missing = first_shots(group, count, classes)
    assert missing == (() if rows else (7,))
    assert [own.tasks.support.x[0, :, 0].tolist() for own in groups] == ([rows] if rows else [])


def test_first_shots_of_a_group_are_those_of_each_client_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (40, 6), generator=rng)
    whole = Batch(torch.rand(40, 6, 2, generator=rng), y)
    group = TaskGroup(tuple(range(40)), Task(whole, whole))
    groups, missing = first_shots(group, 2, 3)
    found = {client: task for part in groups for client, task in unstack(part).items()}
    assert found.keys() | {*missing} == {*group.clients}
    assert len(groups) > 1
    for client, task in unstack(group).items():
        seen: list[int] = []
        rows = []
        for row, label in enumerate(task.support.y.tolist()):
            seen.append(label)
            rows += [row] if seen.count(label) <= 2 else []
        if max(seen.count(label) for label in seen) < 2:
            assert client in missing
            continue
        assert torch.equal(found[client].support.x, task.support.x[rows])
        assert torch.equal(found[client].support.y, task.support.y[rows])
        assert torch.equal(found[client].query.x, task.query.x)
