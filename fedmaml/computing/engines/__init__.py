"""The engines by name, and the plan: which engine computes a job, and why.

A new engine is a file here, a line in `ENGINES` and one in `core.engines`; the contract tests then
compare it with `loop`.
"""

from dataclasses import dataclass

from fedmaml.computing.engines.base import (
    Engine,
    Job,
    Memories,
    Rows,
    Total,
)
from fedmaml.computing.engines.factored import Factored
from fedmaml.computing.engines.fused import Fused
from fedmaml.computing.engines.generic import Loop, Vmap
from fedmaml.computing.engines.shared import Shared

FUSED = Fused()
ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (FUSED, Factored(), Shared(), Vmap(), Loop())  # the order of "auto"
}
LOOP = ENGINES["loop"]


@dataclass(frozen=True)
class Plan:
    """Which engine computes a job.

    Attributes:
        engine: The engine.
        why: Why this engine, and why none before it.
    """

    engine: Engine
    why: str

    def __str__(self) -> str:
        """Return both in one line."""
        return f"{self.engine.name}: {self.why}"


def plan(wanted: str, job: Job) -> Plan:
    """Choose an engine, as a function of job and machine, the same on every back end.

    Args:
        wanted: Name of an engine, which is used if it supports the job; "auto" takes the first of
            `ENGINES` that supports the job and is not slow for it.
        job: What is to be computed.
    """
    passed: dict[str, list[str]] = {}  # reason -> engines
    for name, engine in ENGINES.items():
        if wanted not in (name, "auto") and not passed:
            continue
        reason = engine.why_unsupported(job) or (name != wanted and engine.why_slow(job)) or ""
        if not reason:
            why = engine.about if wanted == "auto" else "as asked" if wanted == name else "instead"
            others = [f"not {' or '.join(names)}: {reason}" for reason, names in passed.items()]
            return Plan(engine, "; ".join([why, *others]))
        passed.setdefault(reason, []).append(name)
    raise AssertionError("the loop takes everything")


__all__ = [
    "ENGINES",
    "FUSED",
    "LOOP",
    "Engine",
    "Job",
    "Memories",
    "Plan",
    "Rows",
    "Total",
    "plan",
]
