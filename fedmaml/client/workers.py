"""Worker processes: chunks of clients on several cores, with the bits of one.

    workers_of(count)     the worker processes of this process, started once and kept
    Crew(...).train       what `fedmaml.client.work` takes as ``elsewhere``

A worker has one thread, a workbench of its own, and makes the tasks of its clients itself. What it
needs of a request is written to a file once, whatever the number of chunks.

Workers cannot outlive the process that started them, however it ends: they hold the reading end of
a pipe that closes with it. One that dies is replaced, and what it did not finish is done again.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from logging.handlers import QueueHandler
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedmaml.client import judging, work
from fedmaml.client.chunks import Chunk
from fedmaml.client.costs import Costs
from fedmaml.client.engines import Job, Memories
from fedmaml.client.gathering import Trained
from fedmaml.client.workbench import workbench
from fedmaml.core.errors import BackendError
from fedmaml.core.params import (
    Layout,
    MetaParams,
    Params,
    flatten,
    layout_of,
    map_params,
    unflatten,
)
from fedmaml.messages.evaluate import EvaluateReply, EvaluateRequest
from fedmaml.messages.train import TrainRequest

R = TypeVar("R")

MOST_DEATHS = 3
"""So many workers may die before one more chunk is finished."""

logger = logging.getLogger("fedmaml")


class Workers:
    """Processes that compute calls; started when first needed, and kept.

    Args:
        number: How many.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._executor: ProcessPoolExecutor | None = None
        self._leash: Connection | None = None
        self._processes: set[BaseProcess] = set()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._names = count()

    def map(self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> Iterator[R]:
        """Yield ``function(*call)`` of each call, in their order.

        Raises:
            BackendError: If workers die again and again.
        """
        done = deaths = 0
        while done < len(calls):
            before = done
            try:
                for future in self._submit(function, calls[done:]):
                    result, records = future.result()
                    for record in records:
                        logging.getLogger(record.name).handle(record)
                    done += 1
                    yield result
            except BrokenProcessPool as error:
                self.end()
                deaths = 1 if done > before else deaths + 1
                if deaths >= MOST_DEATHS:
                    raise BackendError(
                        f"a worker process died {deaths} times in a row (see the log above; if it "
                        "says nothing, most likely memory ran out: then use fewer --workers, or a "
                        "smaller --client-batch. A script of your own that starts runs must do so "
                        "below `if __name__ == '__main__':`)"
                    ) from error
                logger.warning(
                    "a worker process died; new ones are started, and what was not finished is "
                    "computed again"
                )
            except BaseException:  # Ctrl-C, or nobody wants the rest
                self.end()
                raise

    @contextmanager
    def file(self, groups: Mapping[str, Tensor]) -> Iterator[Path]:
        """Write tensors where workers can read them, for a while."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fedmaml-workers-")
        path = Path(self._folder.name) / f"{next(self._names)}.safetensors"
        try:
            save_file(dict(groups), path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def end(self) -> None:
        """End the processes, whatever they do; the next `map` starts new ones."""
        for process in self._processes:
            process.kill()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        self._executor, self._processes = None, set()

    def _submit(
        self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]]
    ) -> list[Future[tuple[R, list[logging.LogRecord]]]]:
        """Hand calls to the processes, which start as they are needed."""
        executor, others = self._running(), set(active_children()) - self._processes
        level = logger.getEffectiveLevel()
        try:
            with _interrupts_blocked():  # workers inherit it: Ctrl-C is this process's business
                return [executor.submit(_logged, level, function, *call) for call in calls]
        finally:
            self._processes = set(active_children()) - others

    def _running(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = get_context("spawn")  # a fork would copy locks that other threads hold
            held, self._leash = context.Pipe(duplex=False)
            folder = "" if self._folder is None else self._folder.name
            self._executor = ProcessPoolExecutor(
                self._number, context, initializer=_begin, initargs=(held, folder)
            )
        return self._executor


@lru_cache(maxsize=8)
def workers_of(number: int) -> Workers:
    """Return the workers of this process."""
    return Workers(number)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let processes and threads that are started meanwhile never see Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- what workers are told ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Order:
    """What all chunks of a request have in common.

    Attributes:
        run_config: Items of the Flower run config.
        request: Without clients and tensors.
        path: File with the tensors, one for each group.
        layouts: Group -> names and shapes; "common" holds the scenario's totals.
    """

    run_config: tuple[tuple[str, Any], ...]
    request: TrainRequest | EvaluateRequest
    path: Path
    layouts: tuple[tuple[str, Layout], ...]


class Crew:
    """The workers of a node, at work on a run.

    Args:
        workers: The processes.
        run_config: The Flower run config, from which each makes its workbench.
    """

    def __init__(self, workers: Workers, run_config: Mapping[str, Any]) -> None:
        self._workers = workers
        self._run_config = tuple(sorted(run_config.items()))

    def train(
        self,
        engine: str,
        request: TrainRequest,
        chunks: Sequence[Chunk],
        memories: Memories,
        costs: Costs,
    ) -> Iterator[Trained]:
        """Compute `work.train_chunk` of every chunk."""
        with self._order(request) as order:
            calls = [(order, engine, chunk, _stacked(chunk, memories), costs) for chunk in chunks]
            yield from self._workers.map(_train, calls)

    def evaluate(
        self, request: EvaluateRequest, chunks: Sequence[Chunk], memories: Memories
    ) -> Iterator[EvaluateReply]:
        """Compute `judging.evaluate_chunk` of every chunk."""
        with self._order(request) as order:
            calls = [(order, chunk, _stacked(chunk, memories)) for chunk in chunks]
            yield from self._workers.map(_evaluate, calls)

    @contextmanager
    def _order(self, request: TrainRequest | EvaluateRequest) -> Iterator[_Order]:
        trees = request.meta | ({"common": request.common} if request.common else {})
        layouts = tuple((group, layout_of(params)) for group, params in trees.items())
        bare = replace(request, clients=(), meta={}, common={})
        flat = {group: flatten(params).cpu() for group, params in trees.items()}
        with self._workers.file(flat) as path:
            yield _Order(self._run_config, bare, path, layouts)


def _stacked(chunk: Chunk, memories: Memories) -> dict[str, np.ndarray]:
    """Return the memories of a chunk, which is cheaper to send than one by one."""
    names = memories[chunk[0]]
    return {
        name: torch.stack([memories[client][name] for client in chunk]).numpy() for name in names
    }


# --- what a worker does ---------------------------------------------------------------------------


def _begin(leash: Connection, folder: str) -> None:
    """Make this process a worker: one thread, and no life without the process that started it."""

    def follow() -> None:
        with suppress(EOFError, OSError):
            leash.recv_bytes()  # nothing is ever sent; it ends with the process at the other end
        if folder:  # which was killed, or it would have cleaned up itself
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    # By value: handles to shared memory would need this process to live until they are read.
    ForkingPickler.register(Tensor, lambda value: (torch.from_numpy, (value.detach().numpy(),)))


def _logged(
    level: int, function: Callable[..., R], *args: Any
) -> tuple[R, list[logging.LogRecord]]:
    """Call a function; return what it returns and what it would have logged."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(records)  # makes records fit to be sent
    logger.propagate = False
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        result = function(*args)
    finally:
        logger.removeHandler(handler)
    return result, [records.get() for _ in range(records.qsize())]


def _train(
    order: _Order,
    engine: str,
    chunk: Chunk,
    memories: Mapping[str, np.ndarray],
    costs: Costs,
) -> Trained:
    bench = workbench(dict(order.run_config))
    trees = _tensors(order)
    common = trees.pop("common", {})
    assert isinstance(order.request, TrainRequest)
    method = bench.method
    request = replace(order.request, clients=chunk, meta=trees, common=common)
    request = method.on_device(request)
    job = Job(method.strategy, method.learner, request.meta, request.computed_form, method.expected)
    return work.train_chunk(
        job,
        engine,
        request,
        bench.tasks("train", request.round, common),
        _unstacked(chunk, memories),
        costs,
    )


def _evaluate(order: _Order, chunk: Chunk, memories: Mapping[str, np.ndarray]) -> EvaluateReply:
    bench = workbench(dict(order.run_config))
    trees = _tensors(order)
    common = trees.pop("common", {})
    assert isinstance(order.request, EvaluateRequest)
    request = replace(order.request, clients=chunk, meta=trees, common=common)
    request = bench.method.on_device(request)
    return judging.evaluate_chunk(
        bench.method.strategy,
        bench.method.learner,
        request,
        bench.tasks(request.split, request.round, common),
        _unstacked(chunk, memories),
    )


def _tensors(order: _Order) -> MetaParams:
    flat = _read(order.path)
    return {group: unflatten(flat[group], layout) for group, layout in order.layouts}


@lru_cache(maxsize=1)
def _read(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def _unstacked(chunk: Chunk, memories: Mapping[str, np.ndarray]) -> dict[int, Params]:
    tensors = {name: torch.from_numpy(values) for name, values in memories.items()}
    return {
        client: map_params(lambda value, i=position: value[i], tensors)
        for position, client in enumerate(chunk)
    }
