"""`compiled`: small networks, the clients innermost, in kernels that Inductor writes.

The strategy's own `client_update` is rewritten for 64 clients at a time (`clients_last`) and
compiled by Inductor, once for each shape of task. A client's update does not depend on the others
of its 64, so its bits are the same in any cohort. Compiled code is kept in the user's cache folder;
later processes only trace.

Whatever cannot be compiled is computed under ``torch.func.vmap`` instead, and the log says why.
"""

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_leaves, tree_map, tree_unflatten

from fedmaml import native
from fedmaml.computing.engines.base import Engine, Job, Memories, Rows, Total, stacked_memory
from fedmaml.computing.engines.clients_last import with_clients_last
from fedmaml.computing.engines.generic import apply
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.learner import Learner
from fedmaml.core.params import Params, device_of
from fedmaml.core.tasks import Task, TaskGroup, rows_of
from fedmaml.native import compilers
from fedmaml.strategies.base import ClientUpdate, MetaStrategy

logger = logging.getLogger("fedmaml")

_CLIENTS = 64
"""Clients of one call: 4 to 16 vectors; 128 are as fast for 500 parameters, and slower for 3000."""

_MAX_JOBS = 8
_MAX_SHAPES = 8
"""Shapes of task that are compiled for one job; the others would take longer than they save."""

# Measured on one core with AVX-512, torch 2.13, float32, cross-entropy (13-32-2, 16 support and 16
# query examples) and squared error (1-40-40-1, 10 and 10), 5 steps but in the second line;
# microseconds per client, and CPU-seconds until the first result of a process, without and with the
# code of another in the cache (6 s more the first time ever, when Inductor compiles its headers):
#
#     network     strategy   clients   vmap  compiled   cold   cached
#     13-32-2     fomaml        2000     22         8      7      2.4
#     13-32-2     fomaml, 1     2000      9         4      5
#     13-32-2     maml          2000     50        17     12      3.1
#     13-32-2     meta_sgd      2000     49        18     12
#     13-32-2     reptile       2000     30        14      7
#     13-32-2     fedprox       2000     44        20      9
#     13-32-2     fedrep        2000     73        21     11
#     13-32-2     protonet      2000      8         7      5
#     1-40-40-1   fomaml        1000     35        25      7      2.6
#     1-40-40-1   maml          1000    103        67     12      3.4
#     13-32-2     fomaml          25    243        33
#     13-32-2     fomaml          12    489        71
#     13-32-2     maml            12    644       113
#
# So first-order steps save about 15 us for each update and 5 ms for each request, and cost 9 s; all
# three grow with the number of steps, and of derivatives. 64-30-30-10, 3,190 parameters: 83 and
# 65 us; 64-90-90-10, 14,950: 241 and 725 us.
_SECONDS_OF_AN_UPDATE = 15e-6
_SECONDS_OF_A_REQUEST = 5e-3
_COMPILING_SECONDS = 9
_WORTHWHILE_ENTRIES = 2_500
_MAX_STEPS = 25  # 1 to 3 s for each

_UNKNOWN_MODULES = (nn.modules.conv._ConvNd, nn.RNNBase, nn.Embedding, nn.GroupNorm)

Shapes = tuple[tuple[tuple[int, ...], torch.dtype], ...]


@dataclass(frozen=True)
class _Program:
    """A compiled `client_update`.

    Attributes:
        function: Meta-parameters, then memory and task with clients last -> leaves of the result.
        results: Tree of the result.
    """

    function: Callable[..., Sequence[Tensor]]
    results: TreeSpec

    def run(self, job: Job, memory: Params, tasks: Task) -> ClientUpdate:
        """Compute any number of clients; trees have a leading client axis."""
        shared = tree_leaves(job.meta)
        own = [_clients_last(value) for value in tree_leaves((memory, tasks))]
        count = rows_of(tasks.query)
        chunks = [
            self.function(*shared, *(value[chunk] for value in own))
            for chunk in range(-(-count // _CLIENTS))
        ]
        leaves = [
            torch.stack(list(parts)).movedim(-1, 1).flatten(0, 1)[:count]
            for parts in zip(*chunks, strict=True)
        ]
        update: ClientUpdate = tree_unflatten(leaves, self.results)
        return update


class Compiled(Engine):
    """Any strategy on a small network without convolutions, 64 clients to a compiled kernel."""

    name: ClassVar[str] = "compiled"

    def why_unsupported(self, job: Job) -> str:
        """Return why it cannot compute a job, as far as that is known before the first task."""
        if importlib.util.find_spec("torch._inductor.standalone_compile") is None:
            return f"torch {torch.__version__} cannot compile a graph by itself; a newer one can"
        device = device_of(job.meta)
        if device.type != "cpu":
            return f"it runs on the CPU, and the parameters are on {device}"
        for name, module in job.learner.network.named_modules():
            if isinstance(module, _UNKNOWN_MODULES):
                return f"{type(module).__name__} {name!r} is not a layer that it knows"
        reason = native.missing()
        if not reason and not compilers.of_the_system():
            # ziglang has no OpenMP, whose headers all code of Inductor includes
            reason = "torch's Inductor needs the system's C++ compiler, as g++ is; there is none"
        return reason

    def why_slow(self, job: Job) -> str:
        """Return that "auto" never takes it.

        Compiling takes seconds in every process. That pays in a long run in one process, but never
        in a deployment, where a process answers one message; and both must use the same engine, for
        the same bits.
        """
        return "every process would compile first, so it is taken only by name"

    def seconds_saved(self, job: Job, requests: int, updates: int) -> float:
        """Return how many CPU-seconds a run in one process saves against vmap, about.

        Args:
            job: The computation.
            requests: Number of requests.
            updates: Number of updates in all requests.

        Returns:
            The saving less the time of compiling; 0 or less if it does not pay, or is impossible.
        """
        entries = sum(value.numel() for value in job.learner.network.parameters())
        inner = [value for value in vars(job.strategy).values() if isinstance(value, GradientSteps)]
        if (
            entries > _WORTHWHILE_ENTRIES
            or sum(steps.steps for steps in inner) > _MAX_STEPS
            or self.why_unsupported(job)
        ):
            return 0.0
        saved = _SECONDS_OF_AN_UPDATE * updates + _SECONDS_OF_A_REQUEST * requests
        return saved - _COMPILING_SECONDS

    def client_batch(self, job: Job) -> int:
        """Return how many clients' tasks are made at a time."""
        return 16 * _CLIENTS

    def compute(
        self, job: Job, groups: Sequence[TaskGroup], memories: Memories
    ) -> Iterator[Rows | Total]:
        """Yield one group at a time."""
        for group in groups:
            memory = stacked_memory(group, memories)
            program = _program(job, memory, group.tasks)
            if program is None:
                yield Rows(group.clients, apply(job.update, group, memories))
            else:
                yield Rows(group.clients, program.run(job, memory, group.tasks))


def _clients_last(value: Tensor) -> Tensor:
    """Cut ``(clients, *shape)`` into ``(chunks, *shape, 64)``; the last client fills it up."""
    missing = -len(value) % _CLIENTS
    filled = torch.cat([value, value[-1:].expand(missing, *value.shape[1:])]) if missing else value
    chunks = filled.reshape(-1, _CLIENTS, *value.shape[1:])
    return chunks.movedim(1, -1).contiguous()


# --- programs, by job and shape of task ----------------------------------------------------------


_programs: dict[tuple[MetaStrategy, Learner], dict[Shapes, _Program | None]] = {}
"""Compiled programs of each job; None where compiling failed."""


def _program(job: Job, memory: Params, tasks: Task) -> _Program | None:
    """Return the program for tasks of this shape, compiled if need be; None if there is none."""
    if (job.strategy, job.learner) not in _programs and len(_programs) == _MAX_JOBS:
        _programs.clear()
    programs = _programs.setdefault((job.strategy, job.learner), {})
    own = tree_map(lambda value: torch.zeros_like(value[0]), (memory, tasks))
    shapes = tuple((tuple(value.shape), value.dtype) for value in tree_leaves((job.meta, own)))
    if shapes not in programs:
        if len(programs) == _MAX_SHAPES:
            return None
        try:
            programs[shapes] = _compile(job, own)
        except Exception as error:  # Inductor, its compiler or the network: the run must go on
            programs[shapes] = None
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            logger.warning(
                "engine compiled cannot compile this update, vmap computes it: %s: %s",
                type(error).__name__, reason,
            )  # fmt: skip
        if len(programs) == _MAX_SHAPES:
            logger.warning(
                "engine compiled has compiled for %d shapes of task; vmap computes any others",
                _MAX_SHAPES,
            )
    return programs[shapes]


def _compile(job: Job, own: tuple[Params, Task]) -> _Program:
    """Compile for one shape of task, and try the result."""
    from torch._inductor import config, standalone_compile

    def update(meta: Any, own: tuple[Params, Task]) -> ClientUpdate:
        memory, task = own
        return job.strategy.client_update(job.learner, meta, memory, task)

    graph, results = with_clients_last(update, job.meta, own, _CLIENTS)
    inputs = [
        *tree_leaves(job.meta),
        *(
            value[..., None].expand(*value.shape, _CLIENTS).contiguous()
            for value in tree_leaves(own)
        ),
    ]
    logger.info(
        "compiling %s for %d clients at a time (once; about %d s, less if it was done before)",
        type(job.strategy).__name__, _CLIENTS, 2 + len(graph.graph.nodes) // 70,
    )  # fmt: skip
    one_thread = config.patch({"cpp.threads": 1, "compile_threads": 1})
    with _cache_folder(), one_thread, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        function = standalone_compile(graph, inputs, dynamic_shapes="from_example_inputs")
        function(*inputs)
    return _Program(function, results)


@contextmanager
def _cache_folder() -> Iterator[None]:
    """Let Inductor keep its code where ours is kept."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(native.cache_folder() / "inductor")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
