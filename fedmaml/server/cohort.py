"""Who takes part: which node hosts which clients, and the seeded cohort."""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from flwr.serverapp import Grid

from fedmaml.core import seeding
from fedmaml.core.errors import BackendError
from fedmaml.core.params import Params


@dataclass(frozen=True)
class RollCall:
    """Which node hosts which clients.

    Attributes:
        hosts: Node id -> split -> client numbers.
        shared_statistics: Totals of the training clients' statistics, summed in client order in
            float64.
        engines: Engine and reason, as nodes report them -> number of nodes.
        statistics_from: Clients whose statistics are in ``shared_statistics``, ascending.
        examples: Node id -> most num-examples that it declares for any of its clients; without
            those that declare none.
        names: Node id -> name of its site, which stays when the node is started anew.
        refused: Node id -> why the node is left out of the run.
    """

    hosts: Mapping[int, Mapping[str, range]]
    shared_statistics: Params = field(default_factory=dict)
    engines: Mapping[str, int] = field(default_factory=dict)
    statistics_from: tuple[int, ...] = ()
    examples: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)
    _populations: dict[str, Sequence[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _nodes_of: dict[str, list[int] | dict[int, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def name(self, node: int) -> str:
        """Return the name of a node's site; the node id, if it has none."""
        return self.names.get(node, str(node))

    def node_of(self, name: str) -> int | None:
        """Return the node of a site; None if there is none of this name."""
        return next((node for node, own in self.names.items() if own == name and name), None)

    def population(self, split: str) -> Sequence[int]:
        """Return all client numbers of a split in ascending order.

        Raises:
            BackendError: If two nodes claim the same client.
        """
        if split not in self._populations:
            self._populations[split] = self._population(split)
        return self._populations[split]

    def _population(self, split: str) -> Sequence[int]:
        parts = [hosted[split] for hosted in self.hosts.values() if len(hosted.get(split, ()))]
        if not parts:
            return range(0)
        count, first = sum(map(len, parts)), min(part[0] for part in parts)
        last = max(part[-1] for part in parts)
        if _are_residues(parts) and count == last - first + 1:
            return range(first, last + 1)
        numbers = sorted(number for part in parts for number in part)
        for left, right in pairwise(numbers):
            if left == right:
                claimed = [n for n, hosted in self.hosts.items() if left in hosted.get(split, ())]
                raise BackendError(
                    f"client {left} is hosted by {len(claimed)} nodes ({claimed}); give every node "
                    "a partition-id of its own"
                )
        return numbers

    def place(self, split: str, clients: Iterable[int]) -> dict[int, list[int]]:
        """Return node id -> its clients among these, ascending."""
        placed: dict[int, list[int]] = {}
        nodes = self._nodes(split)
        for client in sorted(clients):
            node = nodes[client % len(nodes)] if isinstance(nodes, list) else nodes[client]
            placed.setdefault(node, []).append(client)
        return placed

    def _nodes(self, split: str) -> list[int] | dict[int, int]:
        """Return the nodes by remainder of the client number, else client -> node; made once."""
        if split not in self._nodes_of:
            hosts = {n: own[split] for n, own in self.hosts.items() if len(own.get(split, ()))}
            self._nodes_of[split] = _by_remainder(hosts) or {
                client: node for node, numbers in hosts.items() for client in numbers
            }
        return self._nodes_of[split]


def _are_residues(parts: Sequence[range]) -> bool:
    """Return whether ranges share one step and differ in their remainder, so cannot overlap."""
    steps = {part.step for part in parts}
    return len(steps) == 1 and len({part.start % part.step for part in parts}) == len(parts)


def _by_remainder(hosts: Mapping[int, range]) -> list[int] | None:
    """Return the nodes in the order of the remainders they host; None if they host otherwise."""
    step = len(hosts)
    if any(numbers.step != step for numbers in hosts.values()):
        return None
    nodes = {numbers.start % step: node for node, numbers in hosts.items()}
    return [nodes[rest] for rest in range(step)] if len(nodes) == step else None


def one_client_per_node(numbers: Mapping[int, int]) -> RollCall:
    """Return the roll call of an app whose nodes are clients: node id -> client number."""
    return RollCall(
        {
            node: dict.fromkeys(("train", "test"), range(number, number + 1))
            for node, number in numbers.items()
        }
    )


def wait_for_nodes(grid: Grid, nodes: int, timeout: float) -> list[int]:
    """Wait until at least ``nodes`` nodes are connected; return their ids, ascending.

    Raises:
        BackendError: If they do not come in time.
    """
    deadline = time.monotonic() + timeout
    while len(ids := sorted(grid.get_node_ids())) < nodes:
        if time.monotonic() > deadline:
            raise BackendError(
                f"{len(ids)} of {nodes} nodes are connected after {timeout:g} s; start the others, "
                "or ask for fewer nodes"
            )
        time.sleep(0.2)
    return ids


def choose(seed: int, round: int, population: Sequence[int], size: int) -> list[int]:
    """Draw a round's cohort without repeats, ascending; size 0 means everyone.

    Depends on seed, round and the population only, not on how nodes host it.
    """
    if size == 0 or size >= len(population):
        return list(population)
    return sorted(random.Random(seeding.key(seed, "cohort", round)).sample(population, size))
