"""`fused`: small fully connected networks in one C++ kernel, whose vector lanes are clients.

fedmaml/native/fused.h has the mathematics. A client's update does not depend on the others in its
vector, so its bits are the same in any cohort; clients of unequal size need no groups.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import ClassVar

from fedmaml import native
from fedmaml.computing.engines.base import Engine, Job, Memories, Rows, Total
from fedmaml.computing.engines.fused.call import Call, Planned
from fedmaml.computing.engines.fused.chain import Chain, chain_of
from fedmaml.computing.engines.fused.predictions import Predicted, predictions
from fedmaml.computing.engines.specs import known_adaptation, known_spec_of_parts
from fedmaml.core.kernels import AdaptationSpec, Adapts, KernelSpec
from fedmaml.core.params import MetaParams, count_entries, device_of, layout_of
from fedmaml.core.tasks import TaskGroup

_LARGEST_BLOCK_BYTES = 32 * 2**20
_WORTHWHILE_ENTRIES = 100_000  # first order, 16 clients: 1.2 times as fast as `factored` there


class Fused(Engine):
    """Small networks, a client per vector lane, all steps in cache."""

    name: ClassVar[str] = "fused"
    least_share: ClassVar[int] = 256

    def why_unsupported(self, job: Job) -> str:
        """Return why it cannot compute a job; builds the kernel if nothing else prevents it."""
        found = _plan(job)
        return found if isinstance(found, str) else native.missing()

    def why_not_evaluated(self, job: Job) -> str:
        """Return why it cannot compute the predictions of adapted clients; "" if it can."""
        spec = known_adaptation(job.strategy)
        if isinstance(spec, str):
            return spec
        theta = job.meta["theta"]
        keeps_head = any(name not in theta for name, _ in job.learner.network.named_parameters())
        return _why_not(job, spec, 3, keeps_head) or native.missing()

    def why_slow(self, job: Job) -> str:
        """Return that `factored` is faster for larger networks; it has no second derivatives.

        `benchmarks.choice` has the measurements. They are of eight clients and more: fewer leave
        most lanes of a vector unused.
        """
        spec = known_spec_of_parts(job.strategy)
        exact = not isinstance(spec, str) and spec.sends == "exact"
        if not exact and count_entries({"theta": job.meta["theta"]}) > _WORTHWHILE_ENTRIES:
            return f"it does not pay above {_WORTHWHILE_ENTRIES:,} parameters"
        return ""

    def client_batch(self, job: Job) -> int:
        """Return how many clients' tasks are made at a time; more of them are not faster."""
        return 2048

    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield all clients at once."""
        found = _plan(job)
        if isinstance(found, str):
            raise ValueError(found)
        yield Call(job, found, groups, memories).run()

    def predictions(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories, steps: Sequence[int]
    ) -> list[Predicted]:
        """Return what the clients of each group predict after numbers of steps, which rise."""
        spec, chain = known_adaptation(job.strategy), chain_of(job.learner)
        if isinstance(spec, str) or isinstance(chain, str):
            raise ValueError(self.why_not_evaluated(job))
        return predictions(job, spec, chain, groups, memories, steps)


class _Last(threading.local):
    """A thread's last job and what it is: a run asks the same in every round."""

    job: Job | None = None
    shape: dict[str, tuple[object, ...]] | None = None
    found: Planned | str = ""


_last = _Last()


def _plan(job: Job) -> Planned | str:
    """Return what a job is in the kernel's terms, or why it is none for it."""
    last = _last.job
    if last is job:
        return _last.found
    shape = _shape_of(job.meta)
    same = last is not None and last.strategy is job.strategy and last.learner is job.learner
    if not same or _last.shape != shape:
        _last.shape, _last.found = shape, _planned(job)
    _last.job = job
    return _last.found


def _shape_of(meta: MetaParams) -> dict[str, tuple[object, ...]]:
    """Return what of meta-parameters the kernel depends on, beside their values."""
    of_groups = {group: layout_of(params) for group, params in meta.items()}
    return of_groups | {"": (device_of(meta),)}


def _planned(job: Job) -> Planned | str:
    spec, chain = known_spec_of_parts(job.strategy), chain_of(job.learner)
    if isinstance(spec, str):
        return spec
    if isinstance(chain, str):
        return chain
    kept = spec.inner.steps if spec.sends == "exact" else 0
    why = _why_not(job, spec, 3 + kept, spec.own_head is not None)
    return why or Planned(spec, chain, layout_of(job.meta["theta"]), job.learner.problem.l2)


def _why_not(job: Job, spec: KernelSpec | AdaptationSpec, copies: int, keeps_head: bool) -> str:
    """Return why a network, its loss or its parameters are none for the kernel; "" if they are."""
    chain = chain_of(job.learner)
    if isinstance(chain, str):
        return chain
    if why := _why_no_parts(job, spec.adapts, chain, keeps_head):
        return why
    device = device_of(job.meta)
    if device.type != "cpu":
        return f"it runs on the CPU, and the parameters are on {device}"
    entries = sum((layer.inputs + 1) * layer.outputs for layer in chain.layers)
    block_bytes = 64 * copies * entries
    if block_bytes > _LARGEST_BLOCK_BYTES:
        return f"the network is too large for it ({block_bytes / 2**20:.0f} MiB a block)"
    return ""


def _why_no_parts(job: Job, adapts: Adapts, chain: Chain, keeps_head: bool) -> str:
    """Return why a network has not the parts that a strategy needs; "" if it has."""
    if adapts == Adapts() and not keeps_head:
        return ""
    moves, theta = adapts.moves, job.meta["theta"]
    if (keeps_head or moves in ("head", "body")) and chain.head == len(chain.layers):
        return "the network has no head among its layers"
    shared = chain.layers[: chain.head] if keeps_head else chain.layers
    if set(theta) != {name for layer in shared for name in (layer.weight, layer.bias) if name}:
        return "theta does not hold the parameters that the strategy shares"
    if not adapts.learned:
        return ""
    learned = [*job.meta[adapts.learned]]
    if moves == "context" and learned[0] not in [layer.bias for layer in chain.layers]:
        return f"{learned[0]} is no bias of a linear layer"
    if moves != "context" and learned != [*theta]:
        return f"group {adapts.learned!r} does not hold rates for all of theta"
    return ""
