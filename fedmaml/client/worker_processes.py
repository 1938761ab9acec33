"""Worker processes, which compute calls of functions for the process that started them.

    workers_of(count)     the worker processes of this process, started once and kept

A worker computes with one thread. Each worker has a pipe of its own, and only the thread that wants
the results reads and writes the pipes. So there is no lock that a killed process could hold, and an
unfinished message ends in an end of file. (`concurrent.futures` has one pipe for all results, open
at both ends: if a worker is killed while it sends, the executor waits for ever.)

Workers end with the process that started them, however it ends, because their pipes close. A worker
that dies is replaced, and its unfinished call is computed again.
"""

import atexit
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from logging.handlers import QueueHandler
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from fedmaml.client.watching import Watch
from fedmaml.core.errors import BackendError
from fedmaml.core.failures import contained
from fedmaml.core.processes import (
    STARTED_A_RUN,
    WORKER,
    no_guard,
    refuse_while_importing_script,
)

R = TypeVar("R")

LOOK_SECONDS = 1.0
"""How often the processes are looked at while a call takes long."""

MAX_DEATHS = 3
"""After this number of deaths at the same call, `Workers.map` gives up."""

logger = logging.getLogger("fedmaml")


class _Answer(NamedTuple):
    """The result of a call.

    Attributes:
        error: What the function raised.
        result: What it returned.
        records: Its log records.
    """

    error: Exception | None
    result: Any
    records: list[logging.LogRecord]


class _Worker:
    """A process, its pipe, and the number of the call that it is at work on."""

    def __init__(self, folder: str) -> None:
        context = get_context("spawn")  # a fork would copy locks that other threads hold
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, folder), name=WORKER)
        self.process.start()
        theirs.close()  # so that its end is the end of the file
        self.call: int | None = None
        self.watch = Watch(self.process.pid or 0)


class Workers:
    """Processes that compute calls; started when first needed, and kept.

    Args:
        number: How many.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._staff: list[_Worker] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._names = count()
        self._looked = time.monotonic()
        atexit.register(_end, self._staff)  # before multiprocessing waits for its processes

    def map(
        self,
        function: Callable[..., R],
        calls: Sequence[tuple[Any, ...]],
        limit: float = math.inf,
    ) -> Iterator[R]:
        """Yield ``function(*call)`` of each call, in their order.

        Args:
            function: What to call.
            calls: Its arguments, call by call.
            limit: Seconds after which a process that computes nothing is killed, and its call
                computed again; one that was stopped is so after a few seconds. Only on Linux.

        Raises:
            BackendError: If workers die again and again.
            Exception: What the function raises.
        """
        todo, deaths = deque(range(len(calls))), Counter[int]()
        answers: dict[int, _Answer] = {}
        turn = 0
        try:
            while turn < len(calls):
                self._start(min(self.number, len(calls)))
                dead = self._hand_out(function, calls, todo)
                dead += self._collect(answers, block=not dead and turn not in answers)
                dead += self._killed(limit)
                for worker in dead:
                    self._bury(worker, todo, deaths)
                if turn in answers:
                    yield _result(answers.pop(turn))
                    turn += 1
        except BaseException:  # Ctrl-C, or the caller stops
            self.end()
            raise

    def check(self) -> None:
        """Start the processes, and see that each answers.

        Raises:
            BackendError: If they cannot, e.g. because the script that they import begins a run.
        """
        self._folder_name()  # before them, so that they know what to remove
        for _ in self.map(os.getpid, [()] * self.number):
            pass

    @contextmanager
    def file(self, groups: Mapping[str, Tensor]) -> Iterator[Path]:
        """Write tensors where workers can read them, for a while."""
        path = Path(self._folder_name()) / f"{next(self._names)}.safetensors"
        try:
            save_file(dict(groups), path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def end(self) -> None:
        """End the processes, whatever they do; the next `map` starts new ones."""
        _end(self._staff)

    def _folder_name(self) -> str:
        """Return the folder of the files; workers who know it remove it if their node is killed."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fedmaml-workers-")
        return self._folder.name

    def _start(self, number: int) -> None:
        """Start processes until there are at least this many."""
        if len(self._staff) < number:
            refuse_while_importing_script()
            folder = "" if self._folder is None else self._folder.name
            with _interrupts_held_back():
                while len(self._staff) < number:
                    self._staff.append(_Worker(folder))

    def _hand_out(
        self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]], todo: deque[int]
    ) -> list[_Worker]:
        """Give calls to idle workers; return the workers that are found dead."""
        level, dead = logger.getEffectiveLevel(), []
        for worker in self._staff:
            if todo and worker.call is None:
                call = todo.popleft()
                worker.call = call
                worker.watch.begin()
                if worker.watch.is_stopped():  # it would not read what is sent, and so hold us up
                    worker.process.kill()
                    dead.append(worker)
                    continue
                try:
                    worker.pipe.send((level, function, calls[call]))
                except OSError:
                    dead.append(worker)
        return dead

    def _collect(self, answers: dict[int, _Answer], *, block: bool) -> list[_Worker]:
        """Store the answers that have arrived, or the next one; return the dead workers."""
        busy = {worker.pipe: worker for worker in self._staff if worker.call is not None}
        dead = []
        for pipe in wait(list(busy), LOOK_SECONDS if block else 0):
            worker = busy[pipe]  # type: ignore[index]
            assert worker.call is not None
            try:
                answers[worker.call] = worker.pipe.recv()
            except (EOFError, OSError):
                dead.append(worker)
            else:
                worker.call = None
        return dead

    def _killed(self, limit: float) -> list[_Worker]:
        """Kill the busy processes that stand still, and return them."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return []
        self._looked = time.monotonic()
        still = [
            each for each in self._staff if each.call is not None and each.watch.stands_still(limit)
        ]
        for worker in still:
            logger.warning("a worker process stands still and is killed")
            worker.process.kill()
        return still

    def _bury(self, worker: _Worker, todo: deque[int], deaths: Counter[int]) -> None:
        """Put a dead worker's call first again.

        Raises:
            BackendError: If `MAX_DEATHS` workers died at this call, or if importing the script
                killed it.
        """
        if worker not in self._staff:
            return  # found dead twice
        self._staff.remove(worker)
        _end([worker])
        if worker.process.exitcode == STARTED_A_RUN:
            raise BackendError(no_guard())
        assert worker.call is not None
        todo.appendleft(worker.call)
        deaths[worker.call] += 1
        if deaths[worker.call] == MAX_DEATHS:
            raise BackendError(
                f"a worker process died {MAX_DEATHS} times in a row at the same work (see the log "
                "above; if it says nothing, most likely memory ran out: then use fewer --workers, "
                "or a smaller --client-batch)"
            )
        logger.warning(
            "a worker process died; a new one is started, and what was not finished is computed "
            "again"
        )


@lru_cache(maxsize=8)
def workers_of(number: int) -> Workers:
    """Return the workers of this process."""
    return Workers(number)


def _result(answer: _Answer) -> Any:
    """Pass on a worker's log records; return its result, or raise its error."""
    for record in answer.records:
        logging.getLogger(record.name).handle(record)
    if answer.error is not None:
        raise answer.error
    return answer.result


def _end(staff: list[_Worker]) -> None:
    """End processes and empty the list; can be called again after an interrupt."""
    for worker in staff:
        worker.process.kill()
    for worker in staff:
        worker.process.join()
        worker.pipe.close()
    staff.clear()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Delay Ctrl-C, so that no process is half started and the new ones never get it.

    Processes inherit the mask of blocked signals. It holds back nothing by itself: another thread
    may take the signal, and Python then interrupts the main thread all the same.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    replaced = threading.current_thread() is threading.main_thread() and handler is not None
    resource_tracker.ensure_running()  # or the first process starts it, which unblocks the signal
    if replaced:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if replaced:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


# --- what a worker does ---------------------------------------------------------------------------


def _serve(pipe: Connection, folder: str) -> None:
    """Answer calls, in a process with one thread to compute with, as long as its node lives."""
    torch.set_num_threads(1)  # bits must not depend on the machine's number of cores
    os.environ["OMP_NUM_THREADS"] = "1"  # other workers have the other cores
    # By value: handles to shared memory would need this process to live until they are read.
    ForkingPickler.register(Tensor, lambda value: (torch.from_numpy, (value.detach().numpy(),)))
    calls: SimpleQueue[tuple[int, Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()

    def receive() -> None:
        with suppress(EOFError, OSError):
            while True:
                calls.put(pipe.recv())
        if folder:  # the node was killed, or it would have cleaned up itself
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        answer = _answer(*calls.get())
        with suppress(OSError):  # the node is gone: `receive` ends this process
            pipe.send(answer)


def _answer(level: int, function: Callable[..., Any], call: tuple[Any, ...]) -> _Answer:
    """Call a function; return its result or error, and its log records."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(records)  # makes records fit to be sent
    logger.propagate = False
    logger.setLevel(level)
    logger.addHandler(handler)
    error, result = None, None
    try:
        with contained():
            result = function(*call)
    except Exception as raised:  # the node raises it
        error = _portable(raised)
    finally:
        logger.removeHandler(handler)
    return _Answer(error, result, [records.get() for _ in range(records.qsize())])


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with a note of where it was raised."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # whatever its class does when it is made anew
        error = BackendError(f"{type(error).__name__}: {error}")
    error.add_note(f"in a worker process:\n{traceback.format_exc()}")
    return error
