"""`fused`: small fully connected networks in one C++ kernel, whose vector lanes are clients.

fedmaml/native/fused.cpp has the mathematics. A client's update does not depend on the others in its
vector, so its bits are the same in any cohort; clients of unequal size need no groups.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from fedmaml import native
from fedmaml.computing.engines.base import Engine, Job, Memories, Rows, Total
from fedmaml.computing.engines.fused.call import Call
from fedmaml.computing.engines.fused.chain import chain_of
from fedmaml.computing.engines.specs import known_spec
from fedmaml.core.params import count_entries, device_of
from fedmaml.core.tasks import TaskGroup

_LARGEST_BLOCK_BYTES = 32 * 2**20
_WORTHWHILE_ENTRIES = 30_000


class Fused(Engine):
    """Small networks, a client per vector lane, all steps in cache."""

    name: ClassVar[str] = "fused"
    least_share: ClassVar[int] = 256

    def why_unsupported(self, job: Job) -> str:
        """Return why it cannot compute a job; builds the kernel if nothing else prevents it."""
        spec = known_spec(job.strategy)
        if isinstance(spec, str):
            return spec
        chain = chain_of(job.learner)
        if isinstance(chain, str):
            return chain
        device = device_of(job.meta)
        if device.type != "cpu":
            return f"it runs on the CPU, and the parameters are on {device}"
        copies = 3 + (spec.inner.steps if spec.sends == "exact" else 0)
        block_bytes = 64 * copies * count_entries(job.meta)
        if block_bytes > _LARGEST_BLOCK_BYTES:
            return f"the network is too large for it ({block_bytes / 2**20:.0f} MiB a block)"
        return native.missing()

    def why_slow(self, job: Job) -> str:
        """Return that other engines are faster for larger networks."""
        if count_entries(job.meta) > _WORTHWHILE_ENTRIES:
            return f"it does not pay above {_WORTHWHILE_ENTRIES:,} parameters"
        return ""

    def client_batch(self, job: Job) -> int:
        """Return how many clients' tasks are made at a time; more of them are not faster."""
        return 2048

    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield all clients at once."""
        spec, chain = known_spec(job.strategy), chain_of(job.learner)
        if isinstance(spec, str) or isinstance(chain, str):
            raise ValueError(self.why_unsupported(job))
        yield Call(job, spec, chain, groups).run()
