"""Noise that a problem or a strategy declares, drawn per client and passed with its task.

    problem   one draw for each example; the network finds it beside its input, as a further entry
              of the tree: ``{"x": ..., "mask": ...}`` (masks of dropout, latent noise, actions)
    strategy  one draw for the client, ``draws_of(support)["direction"]`` in `adapt`,
              ``draws_of(task.support)`` in `client_update`

Every number is a function of (seed, split, round, client, name), so a run stays repeatable, a
client's noise does not depend on who shares its computation, and all of it passes
``torch.func.vmap``. In training the noise is new in every round; in evaluation it is fixed. All
gradient steps of one round see the same draw of an example.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.tasks import Batch, DrawnBatch, Task, TaskGroup, rows_of
from fedmaml.core.trees import Tree


@dataclass(frozen=True)
class Draw:
    """Noise of one shape.

    Attributes:
        shape: Of one draw; () is a single number.
        kind: "normal": standard normal; "uniform": from the open interval (0, 1).
    """

    shape: tuple[int, ...] = ()
    kind: Literal["normal", "uniform"] = "normal"

    def numbers(self, key: int, clients: Sequence[int], *axes: int) -> Tensor:
        """Return float64 noise of shape ``(clients, *axes, *shape)``; row i is client i's own."""
        draw = seeding.normal if self.kind == "normal" else seeding.uniform
        return draw(key, clients, *axes, *self.shape)


Draws = Mapping[str, Draw]


def with_draws(
    group: TaskGroup, problem: Draws, strategy: Draws, *, seed: int, split: str, round: int
) -> TaskGroup:
    """Return a group of tasks with the noise that problem and strategy declare.

    Args:
        group: Tasks as the scenario made them.
        problem: Name -> noise of each example.
        strategy: Name -> noise of each client.
        seed: Of the run.
        split: Of the clients.
        round: Number of the round; ignored unless the split is "train".

    Raises:
        UnsupportedProblemError: If the inputs have an entry of that name already.
    """
    if not problem and not strategy:
        return group
    path = ("draws", split, round if split == "train" else 0)

    def inputs(batch: Batch, side: str) -> Tree:
        if not problem:
            return batch.x
        tree = dict(batch.x) if isinstance(batch.x, dict) else {"x": batch.x}
        if taken := sorted(tree.keys() & problem.keys()):
            raise UnsupportedProblemError(
                f"the problem declares draws {taken}, and the inputs of the scenario's examples "
                "have entries of that name; give the draws other names"
            )
        rows = rows_of(batch, 1)
        return tree | {
            name: draw.numbers(seeding.key(seed, *path, side, name), group.clients, rows)
            for name, draw in problem.items()
        }

    support, query = group.tasks
    drawn = Batch(inputs(support, "support"), support.y)
    if strategy:
        own = {
            name: draw.numbers(seeding.key(seed, *path, "client", name), group.clients)
            for name, draw in strategy.items()
        }
        drawn = DrawnBatch(*drawn, own)  # type: ignore[assignment]
    return TaskGroup(group.clients, Task(drawn, Batch(inputs(query, "query"), query.y)))
