"""Who takes part: the roll call (which node hosts which clients) and the seeded cohort."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmaml.core import seeding
from fedmaml.core.errors import BackendError, MessageError
from fedmaml.core.params import Params
from fedmaml.messages.roll_call import read_roll_call_reply

ROLL_CALL = "query.roll_call"


@dataclass(frozen=True)
class RollCall:
    """Which node hosts which clients.

    Attributes:
        hosts: Node id -> split -> client numbers.
        shared_statistics: Totals of the training clients' statistics, summed in client order in
            float64.
        engines: Engine and reason, as nodes report them -> number of nodes.
        statistics_from: Clients whose statistics are in ``shared_statistics``, ascending.
    """

    hosts: Mapping[int, Mapping[str, range]]
    shared_statistics: Params = field(default_factory=dict)
    engines: Mapping[str, int] = field(default_factory=dict)
    statistics_from: tuple[int, ...] = ()
    _nodes_of: dict[str, list[int] | dict[int, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def population(self, split: str) -> Sequence[int]:
        """Return all client numbers of a split in ascending order.

        Raises:
            BackendError: If two nodes claim the same client.
        """
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


def call_roll(grid: Grid, nodes: int, timeout: float) -> RollCall:
    """Wait for the nodes, and ask each which clients it hosts.

    Args:
        grid: The way to the nodes.
        nodes: How many to wait for; more if nodes report that clients are spread over more nodes.
        timeout: Seconds to wait for them to connect, and again for their answers.

    Raises:
        BackendError: If nodes are missing, do not answer, or send something unreadable.
    """
    ids = wait_for_nodes(grid, nodes, timeout)
    messages = [Message(RecordDict(), node, ROLL_CALL) for node in ids]
    hosts: dict[int, Mapping[str, range]] = {}
    statistics: dict[int, Params] = {}
    engines: Counter[str] = Counter()
    for reply in grid.send_and_receive(messages, timeout=timeout):
        node = reply.metadata.src_node_id
        if reply.has_error():
            raise BackendError(f"node {node} failed the roll call: {reply.error.reason}")
        try:
            answer = read_roll_call_reply(reply.content)
        except (MessageError, ValueError, TypeError, KeyError) as error:
            raise BackendError(
                f"node {node} sent something else than a reply to the roll call ({error}); it "
                "probably runs another app or another version of fedmaml"
            ) from error
        hosts[node] = {split: range(*numbers) for split, numbers in answer.hosted.items()}
        statistics |= answer.statistics
        engines[answer.engine or "not reported"] += 1
    if missing := sorted(set(ids) - set(hosts)):
        raise BackendError(f"nodes {missing} did not answer the roll call within {timeout:g} s")
    parts = max(
        (numbers.step for hosted in hosts.values() for numbers in hosted.values()), default=1
    )
    if len(hosts) < parts:  # the nodes know of more nodes than had connected
        return call_roll(grid, parts, timeout)
    senders = tuple(sorted(statistics))
    shared_statistics = _totals([statistics[client] for client in senders])
    return RollCall(hosts, shared_statistics, dict(engines), senders)


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


def _totals(statistics: Sequence[Params]) -> Params:
    if not statistics:
        return {}
    totals = {name: torch.zeros_like(value) for name, value in statistics[0].items()}
    for params in statistics:
        totals = {name: total + params[name] for name, total in totals.items()}
    return totals
