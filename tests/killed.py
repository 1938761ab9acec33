"""Runs in processes that kill themselves, or are killed: what `tests/runs/test_resume.py` needs.

`Forge` starts one process that imports fedmaml once and forks a child for every run, since a fresh
process takes seconds to import PyTorch. A child is killed by a real SIGKILL.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedmaml.runs.directory import RunDirectory

ROOT = Path(__file__).parents[1]
DIFFER = {
    "seconds", "seconds_clients", "seconds_server", "seconds_per_round", "peak_process_bytes",
    "energy", "rounds_sha256", "parent", "events", "resumed_after",
}  # fmt: skip
"""What may differ between a run and the same run after interruptions: times and what holds them."""
PHASES = (
    "sample", "send", "collect", "aggregate", "evaluate", "append", "write", "rename", "renamed",
)  # fmt: skip


class Forge:
    """A process that runs configurations in children of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.killed"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def run(self, settings: Mapping[str, Any], out: Path, **how: Any) -> int:
        """Run, or with ``resume`` go on; return the exit status, negative for a signal.

        Args:
            settings: Of the run.
            out: Its folder.
            how: ``phase`` and ``at``: the child kills itself at the start of the n-th call of a
                function of `PHASES` (``bytes``: see `_dies_at`); ``after``: it is killed after
                seconds; ``every``: seconds between two commits; ``resume``; ``limit``: of the size
                of a file, in bytes; ``nemesis``: seed of bad replies.
        """
        assert self._process.stdin
        assert self._process.stdout
        order = {"settings": dict(settings), "out": str(out), **how}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def outcome(folder: Path) -> tuple[Any, ...]:
    """Return what two runs must share: summary, rounds and clients, without times."""
    directory = RunDirectory(folder)
    return tuple(map(_timeless, (directory.summary(), directory.rounds(), directory.clients())))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in DIFFER}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


# --- in the forging process ----------------------------------------------------------------------


def _main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # imports all that a run needs, for all children
        _run({"settings": {"scenario": "digits", "rounds": 1, "clients": 2}, "out": f"{folder}/x"})
    for line in sys.stdin:
        order = json.loads(line)
        if not (child := os.fork()):
            _child(order)
        if after := order.get("after"):
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _child(order: dict[str, Any]) -> None:
    code = 1
    try:
        _run(order)
        code = 0
    except BaseException as error:
        (Path(order["out"]).parent / "error").write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _run(order: dict[str, Any]) -> None:
    from fedmaml.config import resolve
    from fedmaml.running import execute
    from fedmaml.server import app

    app._SECONDS = order.get("every", 0.0)
    if limit := order.get("limit"):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if (seed := order.get("nemesis")) is not None:
        _bad_replies(seed)
    if phase := order.get("phase"):
        _dies_at(phase, order["at"], order.get("bytes", 0))
    execute(resolve(order["settings"]), Path(order["out"]), resume=order.get("resume", False))


def _bad_replies(seed: int) -> None:
    """Spoil or lose one reply in ten of training, by seed, round and node."""
    from flwr.app import Error, Message

    from fedmaml.client import app

    answer = app.answer_train

    def spoiled(message: Any, request: Any, context: Any, *others: Any) -> Any:
        reply = answer(message, request, context, *others)
        draw = random.Random(f"{seed} {request.round} {context.node_id}")
        match draw.randrange(40):
            case 0:
                return Message(Error(5, "node unavailable"), reply_to=message)
            case 1:
                raise ValueError("nemesis")
            case 2:
                reply.content.config_records["reply"]["base"] = "0" * 16
            case 3:
                reply.content.metric_records["metrics"]["num-examples"] = [-1.0]
        return reply

    app.answer_train = spoiled  # type: ignore[assignment]


def _dies_at(phase: str, at: int, size: int) -> None:
    """Let this process kill itself at the n-th call of the function of a phase.

    Args:
        phase: One of `PHASES`, or "commit": while it writes a state.
        at: Which call.
        size: Bytes that it writes of a state before it dies.
    """
    from fedmaml.runs import journal, writing
    from fedmaml.server import rounds
    from fedmaml.server.flower_strategy import FlowerStrategy
    from fedmaml.simulations.backends.in_process import InProcessGrid

    left = [at]

    def half(descriptor: int, content: bytes) -> None:
        os.write(descriptor, content[: len(content) // 2])

    def dying(function: Callable[..., Any], before: Callable[..., Any] | None = None) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if before is not None:
                    before(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    def after(function: Callable[..., Any]) -> Any:
        return dying(function, function)

    def cut(path: Path, *parts: bytes, **_options: Any) -> None:
        path.with_name(f".{path.name}.tmp").write_bytes(b"".join(parts)[:size])

    match phase:
        case "commit":
            journal.write_whole = dying(journal.write_whole, cut)
        case "sample":
            rounds.choose = dying(rounds.choose)
        case "send":
            InProcessGrid.push_messages = after(InProcessGrid.push_messages)  # type: ignore[method-assign]
        case "collect":
            InProcessGrid.pull_messages = after(InProcessGrid.pull_messages)  # type: ignore[method-assign]
        case "aggregate":
            FlowerStrategy.step = after(FlowerStrategy.step)  # type: ignore[method-assign]
        case "evaluate":
            rounds.evaluate = after(rounds.evaluate)
        case "append":
            journal.write_all_of = dying(journal.write_all_of, half)
        case "write":
            writing.write_all_of = dying(writing.write_all_of, half)
        case "rename":  # the old state has its new name, the new one has not
            Path.replace = after(Path.replace)  # type: ignore[method-assign]
        case "renamed":
            journal.flush_folder = dying(journal.flush_folder)


if __name__ == "__main__":
    _main()
