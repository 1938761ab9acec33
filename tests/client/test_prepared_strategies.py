"""Requests as a node computes them."""

import pytest
import torch
from torch import Tensor

from fedmaml.client.replies import prepare
from fedmaml.computing.engines import Job
from fedmaml.core.params import flatten, layout_of, unflatten
from fedmaml.core.requests import TrainRequest
from fedmaml.core.tasks import cast, task_at
from fedmaml.simulations.scenarios import Sinusoid, Trading
from fedmaml.strategies import MAML

ENTRIES = 16  # of 4 bytes: memory that PyTorch reserves begins at a multiple of 64


def beginning_at(entry: int, flat: Tensor) -> Tensor:
    """Return a copy that begins that number of entries after such a multiple."""
    memory = torch.empty(len(flat) + 2 * ENTRIES, dtype=flat.dtype)
    first = -(memory.data_ptr() // flat.itemsize) % ENTRIES + entry
    return memory[first : first + len(flat)].copy_(flat)


@pytest.mark.parametrize("scenario", [Sinusoid(), Trading(data="positive")])
def test_bits_do_not_depend_on_where_a_message_was_read_to(scenario: object) -> None:
    """A float32 dot product does, of networks with one output: client 4's were different."""
    prepared = prepare(MAML(), scenario.problem())
    learner = prepared.learner
    theta = MAML().build(scenario.problem(), torch.Generator().manual_seed(0)).state.meta["theta"]
    (group,) = scenario.tasks("train", [3, 4, 5], 1, {})
    tasks = [cast(task_at(group.tasks, row), torch.float32) for row in range(3)]
    sent: list[Tensor] = []
    for entry in range(4):
        parts = unflatten(beginning_at(entry, flatten(theta)), layout_of(theta))
        request = prepared.on_device(TrainRequest(1, (3, 4, 5), {"theta": parts}))
        job = Job(prepared.strategy, learner, request.meta)
        updates = [flatten(job.update(task, {}).update["theta"]) for task in tasks]
        sent.append(torch.cat(updates))
    assert all(torch.equal(update, sent[0]) for update in sent)
