"""Does a scenario, a network or a strategy of one's own work here? ``fedmaml check``.

What a run would find out on its way, at once and in seconds: settings, clients, tasks, their
repeatability, the network and the strategy on them, gradients, leakage. Every line says what was
seen, or what to change.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fedmaml.auditing import IN_A_RUN
from fedmaml.auditing import audit as audit_data
from fedmaml.config import RunConfig
from fedmaml.core.errors import FedmamlError, described
from fedmaml.core.params import count_entries
from fedmaml.core.tasks import Task, first_task, rows_of, unstack
from fedmaml.core.trees import leaves
from fedmaml.preflight import preflight
from fedmaml.simulations.returned import as_asked, clients_of
from fedmaml.simulations.scenario import SPLITS, Scenario, Split
from fedmaml.verification import TOLERANCE, check_all


@dataclass(frozen=True)
class Checked:
    """The result of one check.

    Attributes:
        name: What was checked.
        passed: Whether it is as it must be.
        detail: What was seen; if it did not pass, what is wrong and what to change.
    """

    name: str
    passed: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def check(config: RunConfig, names: Sequence[str] = ()) -> list[Checked]:
    """Check the scenario and the strategy of a configuration, in a few seconds.

    Args:
        config: What would be run.
        names: Of the checks; (): all.
    """
    checks: dict[str, Callable[[RunConfig], str]] = {
        "clients": _clients,
        "tasks": _tasks,
        "repeatable": _repeatable,
        "network and strategy": _network_and_strategy,
        "gradients": _gradients,
        "leakage": _leakage,
    }
    results = []
    for name in names or checks:
        try:
            results.append(Checked(name, True, checks[name](config)))
        except FedmamlError as error:
            results.append(Checked(name, False, str(error)))
        except Exception as error:  # whatever somebody's code raises
            results.append(Checked(name, False, described(error)))
    return results


class _FailedError(FedmamlError):
    """Something is not as it must be."""


def _clients(config: RunConfig) -> str:
    clients = clients_of(config.make_scenario())
    for position, split in enumerate(SPLITS):
        for other in SPLITS[:position]:
            if shared := set(clients[split]) & set(clients[other]):
                raise _FailedError(
                    f"client {min(shared)} is in {other!r} and in {split!r}, {len(shared)} in all: "
                    "what is evaluated must not have trained; number them apart in clients()"
                )
    return ", ".join(f"{len(clients[split]):,} {split}" for split in SPLITS)


def _tasks(config: RunConfig) -> str:
    scenario = config.make_scenario()
    seen = []
    for split in ("train", "test"):
        for client in scenario.clients()[split][:1]:
            task = _task(scenario, split, client, 1)
            sides = {"support": task.support, "query": task.query}
            for side, batch in sides.items():
                for leaf in (*leaves(batch.x), *leaves(batch.y)):
                    if leaf.is_floating_point() and not leaf.isfinite().all():
                        raise _FailedError(
                            f"{side} of client {client} ({split}) holds values that are not "
                            "finite: replace them in tasks()"
                        )
            shapes = " and ".join(
                f"{rows_of(batch)} {side} of {_shape(batch.x)} -> {_shape(batch.y)}"
                for side, batch in sides.items()
            )
            seen.append(f"{split}: {shapes}")
    return "; ".join(seen)


def _repeatable(config: RunConfig) -> str:
    """Compare tasks of two scenarios that were made alike, of two rounds."""
    one, other = config.make_scenario(), config.make_scenario()
    for split in SPLITS:
        for client in one.clients()[split][:1]:
            if not _same(_task(one, split, client, 1), _task(other, split, client, 1)):
                raise _FailedError(
                    f"the task of client {client} ({split}) differs when it is made twice: draw "
                    "by core.seeding, from seed, round and client, and from nothing else"
                )
            if split != "train" and not _same(
                _task(one, split, client, 1), _task(one, split, client, 2)
            ):
                raise _FailedError(
                    f"the task of client {client} ({split}) differs from round to round: what is "
                    "evaluated must stay the same; use the round for training clients only"
                )
        _check_company(one, split)
    client = one.clients()["train"][0]
    if _same(_task(one, "train", client, 1), _task(one, "train", client, 2)):
        return "yes; training clients have the same task in every round, a fresh split is better"
    return "yes; training clients split their data anew in every round"


def _check_company(scenario: Scenario, split: Split) -> None:
    """Compare the tasks of two clients that are asked for together with those of each alone."""
    two = list(scenario.clients()[split][:2])
    if len(two) < 2:
        return
    shared = scenario.statistics(scenario.clients()["train"][0])
    groups = as_asked(scenario.tasks(split, two, 1, shared), two)
    together = {client: task for group in groups for client, task in unstack(group).items()}
    for client in two:
        if not _same(together[client], _task(scenario, split, client, 1)):
            raise _FailedError(
                f"the task of client {client} ({split}) is another one when clients {two} are "
                "asked for together: draw for each client by its number (core.seeding), since runs "
                "may ask for any of them at once"
            )


def _network_and_strategy(config: RunConfig) -> str:
    said: list[str] = []
    handler = _Keeping(said)
    logger = logging.getLogger("fedmaml")
    logger.addHandler(handler)
    try:
        preflight(config, said.append)
    finally:
        logger.removeHandler(handler)
    start = config.make_strategy().build(config.make_problem(), torch.Generator().manual_seed(0))
    count = count_entries({"theta": start.state.meta["theta"]})
    return "; ".join([f"{count:,} parameters", *said])


def _gradients(config: RunConfig) -> str:
    results = check_all(config.strategy)
    worst = max(results, key=lambda result: result.relative_error)
    if not worst.relative_error <= TOLERANCE:
        raise _FailedError(
            f"the update that a client sends differs from {worst.reference} by "
            f"{worst.relative_error:.1e} of its size: mend client_update, or the objective that "
            "its facts state"
        )
    return f"updates agree with {worst.reference} to {worst.relative_error:.1e}"


def _leakage(config: RunConfig) -> str:
    parts = config.make_scenario(), config.make_strategy(), config.make_problem()
    found = audit_data(*parts, config.seed, IN_A_RUN)
    if alarming := found.alarming:
        first = alarming[0]
        raise _FailedError(f"{first.kind}: {first.detail}; {first.cure}")
    return f"nothing found by {len({one.kind for one in found.checked})} checks (fedmaml audit)"


class _Keeping(logging.Handler):
    """Keeps warnings for the table."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self._kept.append(record.getMessage())


def _task(scenario: Scenario, split: Any, client: int, round: int) -> Task:
    shared = scenario.statistics(scenario.clients()["train"][0])
    (group,) = as_asked(scenario.tasks(split, [client], round, shared), [client])
    return first_task(group.tasks)


def _same(one: Task, other: Task) -> bool:
    pairs = zip(_leaves(one), _leaves(other), strict=True)
    return all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in pairs
    )


def _leaves(task: Task) -> Sequence[torch.Tensor]:
    return [leaf for batch in task for tree in (batch.x, batch.y) for leaf in leaves(tree)]


def _shape(tree: Any) -> str:
    return " + ".join(
        f"{tuple(leaf.shape[1:]) or 'scalar'} {str(leaf.dtype).removeprefix('torch.')}"
        for leaf in leaves(tree)
    )
