"""What an engine computes of clients, as tests compare it with another engine."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.utils._pytree import tree_leaves

from fedmaml.computing.engines import ENGINES, Job, Rows
from fedmaml.core.params import Params
from fedmaml.core.tasks import TaskGroup


def computed(
    engine: str, job: Job, groups: Sequence[TaskGroup], memories: Mapping[int, Params]
) -> dict[int, list[Tensor]]:
    """Return all tensors that each client returns, by client."""
    found = {}
    for part in ENGINES[engine].compute(job, groups, memories):
        assert isinstance(part, Rows)
        for row, client in enumerate(part.clients):
            found[client] = [value[row] for value in tree_leaves(part.results)]
    return found
