"""Keeps processes going: one that ends is started again, after a pause that grows."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedmaml.simulations.backends.processes import Child, Workspace

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 15.0
STEADY_SECONDS = 120.0
"""A process that ran for this long begins with the first pause again."""


@dataclass(frozen=True)
class Service:
    """A process that should always be there.

    Attributes:
        name: In messages and names of logs.
        command: What to start.
        environment: Its variables.
        advice: The process that ended -> what that means, for the log.
        hindrance: Why it cannot be started now; "": nothing hinders it.
    """

    name: str
    command: Callable[[], Sequence[str]]
    environment: dict[str, str]
    advice: Callable[[Child], str] = lambda _child: ""
    hindrance: Callable[[], str] = lambda: ""


@dataclass
class _State:
    """A service and how it fares.

    Attributes:
        child: The process; None: it waits to be started.
        starts: How often it was started.
        pause: Seconds before the next start.
        since: Clock of the last start, or of the end.
        said: The hindrance that the log names already.
    """

    service: Service
    child: Child | None = None
    starts: int = 0
    pause: float = field(default_factory=lambda: FIRST_PAUSE)
    since: float = 0.0
    said: str = ""


def supervise(
    space: Workspace,
    services: Sequence[Service],
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Start services, and start again those that end, until ``stop`` is set.

    Args:
        space: Where they run; they end with it.
        services: In the order in which they are started.
        stop: Ends the supervision; the processes end with the workspace.
        say: Takes a line for each end and each start.
    """
    states = [_State(service) for service in services]
    while not stop.is_set():
        for state in states:
            _look_after(space, state, say)
        stop.wait(0.2)


def _look_after(space: Workspace, state: _State, say: Callable[[str], None]) -> None:
    now = time.monotonic()
    if state.child is None:
        if not state.starts or now - state.since >= state.pause:
            _start_if_possible(space, state, say)
    elif state.child.ended():
        if now - state.since >= STEADY_SECONDS:
            state.pause = FIRST_PAUSE
        code = state.child.popen.returncode
        why = state.service.advice(state.child) or _last_line(state.child)
        say(
            f"{state.service.name} ended ({_how(code)}); starting it again in {state.pause:g} s"
            + (f": {why}" if why else "")
        )
        state.child, state.since = None, now


def _start_if_possible(space: Workspace, state: _State, say: Callable[[str], None]) -> None:
    state.since = time.monotonic()
    if hindrance := state.service.hindrance():
        if hindrance != state.said:
            say(f"{state.service.name} waits: {hindrance}")
        state.said = hindrance
        return
    if state.starts:
        state.pause = min(2 * state.pause, LONGEST_PAUSE)
    state.starts, state.said = state.starts + 1, ""
    name = f"{state.service.name}-{state.starts}"
    state.child = space.start(name, list(state.service.command()), state.service.environment)
    state.since = time.monotonic()


def _last_line(child: Child) -> str:
    """Return the last thing that a process said; "" if it said nothing."""
    lines = child.log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
