"""`factored`: training of large networks, with little memory per client.

Linear layers are computed for all clients together (`factored.linear`), convolutions client by
client in the layout that suits the machine (`factored.images`). An update is formed a few rows of
a weight at a time and added at once, so no memory grows with clients times parameters. Second order
is for networks on images only (`factored.exact`).
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch.utils._pytree import tree_map

from fedmaml.computing.engines.base import Engine, Job, Memories, Rows, Total
from fedmaml.computing.engines.factored import images
from fedmaml.computing.engines.factored.exact import OneClient, update_of
from fedmaml.computing.engines.factored.linear import LowRank, StepRule
from fedmaml.computing.engines.factored.network import Chain, Network, chain_of, kind_in
from fedmaml.computing.engines.factored.updates import Sent, Sum, squared_norm_of_rest
from fedmaml.computing.engines.layers import Linear, names_of
from fedmaml.computing.engines.specs import UNKNOWN_LOSS, known_spec
from fedmaml.core import losses
from fedmaml.core.kernels import KernelSpec
from fedmaml.core.params import count_entries, device_of, squared_norm
from fedmaml.core.tasks import Batch, Task, TaskGroup, task_at
from fedmaml.strategies.base import ClientUpdate

_CACHE_BYTES = 8 * 2**20  # 2: 34 us a client of 500 parameters, 4: 26, 8: 22, 16: 20
_MEMORY_BYTES = 256 * 2**20
_ROWS = 1024  # of a shared product; it gets no faster with more
_WORTHWHILE_ENTRIES = 8_000  # of networks with convolutions; see `why_slow`


class Factored(Engine):
    """Large networks: shared products, a few rows of an update at a time."""

    name: ClassVar[str] = "factored"

    def why_unsupported(self, job: Job) -> str:
        spec = known_spec(job.strategy)
        if isinstance(spec, str):
            return spec
        if job.learner.problem.loss not in losses.CATALOGUE:
            return UNKNOWN_LOSS
        chain = chain_of(job.learner)
        if isinstance(chain, str):
            return chain
        if spec.sends == "exact" and not chain.images:
            return "it drops second derivatives of linear layers, and maml needs them"
        device = device_of(job.meta)
        return "" if device.type == "cpu" else f"the parameters are on {device}, not on the CPU"

    def why_slow(self, job: Job) -> str:
        """Return that small convolutions are faster for many clients at once, under vmap.

        Two convolutions and a linear layer on images of 8 x 8, 2,000 parameters: 2.1 ms a client,
        vmap 1.0; 28 x 28, 9,000 parameters: 3.3 and 3.9; 16 x 16, 10,000: 6.0 and 7.4. Linear
        layers alone are at least as fast as under vmap from 500 parameters on.
        """
        chain = chain_of(job.learner)
        entries = count_entries(job.meta)
        if isinstance(chain, Chain) and chain.images and entries < _WORTHWHILE_ENTRIES:
            return (
                f"convolutions client by client do not pay below {_WORTHWHILE_ENTRIES:,} parameters"
            )
        return ""

    def client_batch(self, job: Job) -> int:
        """Return how many clients' tasks are made at a time; fewer are computed at a time."""
        return 256

    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield one sum of all clients, or the updates of as many as are computed at a time."""
        spec, chain = known_spec(job.strategy), chain_of(job.learner)
        if isinstance(spec, str) or isinstance(chain, str):
            raise ValueError(self.why_unsupported(job))
        if spec.sends == "exact":
            yield from _exact(job, spec, chain, groups)
            return
        total = Sum(job.meta["theta"]) if job.form == "sum" else None
        for group in groups:
            size = _clients_at_a_time(job, spec, chain, group.tasks)
            for first in range(0, len(group.clients), size):
                some = slice(first, first + size)
                tasks = Task(*(Batch(batch.x[some], batch.y[some]) for batch in group.tasks))
                sent = _send(job, spec, chain, tasks)
                if total is None:
                    yield _rows(job, group.clients[some], sent)
                else:
                    total.add(group.clients[some], sent)
        if total is not None:
            yield total.result()


def _exact(job: Job, spec: KernelSpec, chain: Chain, groups: Sequence[TaskGroup]) -> Iterator[Rows]:
    client = OneClient(job.learner, images.in_blocks(chain.images), chain.tail)
    for group in groups:
        for row, number in enumerate(group.clients):
            update = update_of(job, spec, client, task_at(group.tasks, row))
            yield Rows((number,), tree_map(lambda value: value[None], update))


# --- the computation -----------------------------------------------------------------------------


@torch.no_grad()
def _send(job: Job, spec: KernelSpec, chain: Chain, tasks: Task) -> Sent:
    """Compute the strategy's `client_update` for clients of equal shape."""
    theta, l2 = job.meta["theta"], job.learner.problem.l2
    rule = StepRule.of(spec, l2)
    if spec.sends == "difference":
        evaluated = trains = _prepared(chain, _joined(tasks))
    else:
        evaluated, trains = (_prepared(chain, batch) for batch in (tasks.query, tasks.support))
    network = Network(job, chain, rule, trains.y.shape[1])
    seen = [] if evaluated is trains else [network.loss(evaluated)[0]]
    for _ in range(spec.inner.steps):
        value, e = network.loss(trains)
        seen.append(value)
        network.backward(e)
        network.step()
    value, e = network.loss(evaluated)
    if spec.sends != "difference" or not spec.inner.steps:
        network.backward(e)
    before, after = (*seen, value)[0], value
    pieces = network.difference() if spec.sends == "difference" else network.gradient()
    if spec.sends == "difference" and l2:
        before = before + l2 * squared_norm(theta)
        for piece in pieces:
            after = after + l2 * squared_norm_of_rest(piece, theta[piece.name])
    clients, rows = evaluated.y.shape[:2]
    weight = torch.full((clients,), float(rows), dtype=torch.float64)
    return Sent(pieces, weight, {"loss_before": before, "loss_after": after})


def _joined(tasks: Task) -> Batch:
    support, query = tasks
    return Batch(torch.cat([support.x, query.x], 1), torch.cat([support.y, query.y], 1))


def _prepared(chain: Chain, batch: Batch) -> Batch:
    """Return examples as the first layer wants them."""
    return batch if chain.images else Batch(batch.x.flatten(2), batch.y)


# --- how much at a time --------------------------------------------------------------------------


def _clients_at_a_time(job: Job, spec: KernelSpec, chain: Chain, tasks: Task) -> int:
    """Return how many clients fit into the cache, or else keep shared products efficient."""
    theta, rows = job.meta["theta"], [batch.y.shape[1] for batch in tasks]
    if spec.sends == "difference":
        rows = [sum(rows)] * 2
    entries, busy = 0, 1
    for layer in chain.tail:
        if isinstance(layer, Linear):
            kind = kind_in(chain, layer, spec.inner.steps, rows[0])
            entries += kind.entries(layer, spec.inner.steps, rows[0])
            entries += 3 * max(rows) * (layer.inputs + layer.outputs)
            if kind is LowRank:
                busy = -(-_ROWS // max(rows))
    held = entries * next(iter(theta.values())).element_size()
    if chain.images:
        held += images.bytes_kept(chain.images, theta, tasks.query.x[0, :1]) * max(rows)
        own = [theta[name] for layer in chain.images for name in names_of(layer)]
        held += 3 * sum(value.nbytes for value in own)
    return max(1, _CACHE_BYTES // held, min(busy, _MEMORY_BYTES // held))


# --- the results ---------------------------------------------------------------------------------


def _rows(job: Job, clients: tuple[int, ...], sent: Sent) -> Rows:
    pieces = {piece.name: piece for piece in sent.pieces}
    update = {
        name: torch.cat(list(pieces[name].tiles()), 1).view(-1, *value.shape)
        for name, value in job.meta["theta"].items()
    }
    return Rows(clients, ClientUpdate({"theta": update}, sent.weight, sent.metrics, {}))
