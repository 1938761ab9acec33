"""The worker of a site: a process that alone reads the site's data and answers for it, on a socket.

    python -m fedmaml.sites.worker SITE.toml [--idle SECONDS]

Flower starts a new process for every message. This one stays: it imports PyTorch once, and keeps
data, kernels, tasks and the clients' memories. It serves one method, `fedmaml.Site/Answer`, and
gRPC's standard health service, on a Unix socket in a folder that only its owner may open. Messages
come and go in parts of at most `wire.CHUNK` bytes. It ends on SIGTERM or SIGINT, or if it was
started with ``--idle`` and nobody asked for so long, or another worker serves the site.

Exit codes are those of `core.exit_codes`.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from filelock import FileLock, Timeout
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from fedmaml import __version__
from fedmaml.core.errors import FedmamlError, RefusedError
from fedmaml.core.exit_codes import exit_code_of
from fedmaml.flower_internals import message_from_bytes, message_to_bytes
from fedmaml.sites.site_file import Site, read_site_file
from fedmaml.sites.starting import made_private
from fedmaml.sites.wire import ANSWER, OPTIONS, SERVICE, chunked, joined, refuse_larger

if TYPE_CHECKING:
    from fedmaml.sites.answering import Answering

_THREADS = 4  # that read and write; one more computes
_WAITING = 8  # requests at a time; a node sends one
_GRACE_SECONDS = 2.0
_LOCK_SECONDS = 1.0  # in which the site's app may look whether it is locked
_LOOK_SECONDS = 0.5

logger = logging.getLogger("fedmaml")


class _Service:
    """The method that answers.

    Args:
        site: What the site's own file says.
        answering: Computes the answers.
    """

    def __init__(self, site: Site, answering: "Answering") -> None:
        self._most = site.limits.message_bytes
        self._answering = answering
        # One thread computes: requests wait for each other, and PyTorch's settings are a thread's.
        self._computing = ThreadPoolExecutor(1, "computing")
        self._lock, self._busy = threading.Lock(), 0
        self._last = time.monotonic()

    def idle_seconds(self) -> float:
        """Return the seconds since the last request was answered; 0 while one is."""
        return 0.0 if self._busy else time.monotonic() - self._last

    def answer(self, parts: Iterator[bytes], call: grpc.ServicerContext) -> Iterator[bytes]:
        """Answer one message."""
        with self._lock:
            self._busy += 1
        try:
            header, body = joined(parts, self._most)
            if header.get("version") != __version__:
                raise RefusedError(
                    f"this site's app is fedmaml {str(header.get('version'))[:20]} and its worker "
                    f"{__version__}: end the worker, it is started anew"
                )
            reply = self._computing.submit(self._computed, header, body).result()
            refuse_larger(len(reply), self._most)
        except RefusedError as error:
            call.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        finally:
            with self._lock:
                self._busy -= 1
                self._last = time.monotonic()
        yield from chunked({}, reply)

    def _computed(self, header: dict[str, Any], body: bytes) -> bytes:
        try:
            message = message_from_bytes(body)
            run, node, run_config = int(header["run"]), int(header["node"]), header["run_config"]
        except (ValueError, TypeError, KeyError) as error:
            raise RefusedError("a request to the site's worker cannot be read") from error
        return message_to_bytes(self._answering.answer(message, run, node, run_config))


def serve(site_file: Path, idle: float = 0.0) -> None:
    """Serve a site until a signal comes.

    Args:
        site_file: The site's own file.
        idle: Seconds without a request after which to end; 0: never.

    Raises:
        ConfigurationError: If the file is wrong, or others may open the folder of the socket.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    site = read_site_file(site_file)  # with absolute paths
    made_private(site.folders.worker)
    with FileLock(site.lock, timeout=_LOCK_SECONDS if idle else -1, poll_interval=0.1):
        os.umask(0o077)
        os.chdir(site.folders.worker)  # not in a folder that somebody else may remove or change
        _keep_to_cores(site.limits.cpus)
        site.socket.unlink(missing_ok=True)  # left by a worker that was killed
        from fedmaml.sites.answering import Answering  # takes seconds: it imports PyTorch

        service = _Service(site, Answering(site))
        server = _served(site, service)
        logger.info("site %s: the worker serves %s", site.name, site.socket)
        while not ended.wait(_LOOK_SECONDS):
            if idle and service.idle_seconds() > idle:
                logger.info("nobody asked for %g s: the worker ends", idle)
                break
        server.stop(_GRACE_SECONDS).wait()
        site.socket.unlink(missing_ok=True)


def _served(site: Site, service: _Service) -> grpc.Server:
    """Start the server on the site's socket; return it when it is ready."""
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, "site"), options=OPTIONS, maximum_concurrent_rpcs=_WAITING
    )
    answer = grpc.stream_stream_rpc_method_handler(service.answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {ANSWER: answer}),)
    )
    states = health.HealthServicer()
    add_HealthServicer_to_server(states, server)
    server.add_insecure_port(f"unix:{site.socket}")  # nobody but the owner reaches it
    server.start()
    for name in ("", SERVICE):
        states.set(name, HealthCheckResponse.SERVING)
    return server


def _keep_to_cores(cpus: int) -> None:
    """Let this process and those that it starts use this number of cores; 0: all."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the site whose file is named; return the exit code."""
    parser = argparse.ArgumentParser("fedmaml.sites.worker", description="Serve a site's data.")
    parser.add_argument("site_file", type=Path, help="the site's own file, site.toml")
    parser.add_argument("--idle", type=float, default=0.0, help="end after SECONDS unasked")
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # bits must not depend on the machine's number of cores
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        serve(given.site_file, given.idle)
    except Timeout:
        logger.info("another worker serves this site")
    except FedmamlError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code_of(error)
    return 0


if __name__ == "__main__":
    code = main()
    # A request that is still computed must not hold up the end.
    logging.shutdown()
    os._exit(code)
