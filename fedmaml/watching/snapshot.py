"""The state of a run at this moment, as plain values."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedmaml.core.records import REASONS
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.holding import pid_exists
from fedmaml.watching.following import Lines

Phase = Literal["waiting", "training", "evaluating", "finished", "failed", "stopped"]

MAX_POINTS = 400
"""Most points of a curve; of longer runs every n-th round is shown."""
MAX_EVENTS = 30
RECENT_ROUNDS = 9
"""Rounds whose median time gives the time left."""


@dataclass(frozen=True)
class Place:
    """A site of a run.

    Attributes:
        name: Of the site.
        state: "connected", "away", "left out" or "takes part".
        reason: Why it is not as it should be; "" if it is.
        since: Round since which that is so; 0: from the beginning.
        left_out: Rounds in which its update was not used.
    """

    name: str
    state: str
    reason: str = ""
    since: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Federation:
    """What a coordinator says of its sites.

    Attributes:
        sites: Their names, in the order of their numbers.
        connected: Those that are connected; None: not known.
    """

    sites: tuple[str, ...]
    connected: tuple[str, ...] | None = None


class Watch:
    """Follows a run.

    Args:
        run: Its folder, which need not exist yet.
        federation: Returns what the coordinator says; None: there is none.
    """

    def __init__(self, run: Path, federation: Callable[[], Federation] | None = None) -> None:
        self._directory = RunDirectory(run)
        self._lines = Lines(run / "rounds.jsonl")
        self._federation = federation

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the run, ready for JSON."""
        federation = self._federation() if self._federation else None
        path = self._directory.path
        if not (path / "config.toml").exists():
            return {"run": str(path), "phase": "waiting", "sites": _places([], federation)}
        table, records = self._directory.config_table(), self._lines.read()
        summary = self._directory.summary()
        phase = self._phase(len(records), int(table["rounds"]), summary is not None)
        return {
            "run": str(path),
            "title": " · ".join(
                (table["scenario"], table["strategy"], f"seed\N{NO-BREAK SPACE}{table['seed']}")
            ),
            "phase": phase,
            "why": self._directory.failure() if phase == "failed" else "",
            "round": len(records),
            "rounds": table["rounds"],
            "clients": records[-1]["clients"] if records else None,
            "cohort": records[-1]["cohort"] if records else None,
            "seconds_per_round": _pace(records),
            "seconds_left": _left(records, int(table["rounds"])) if phase == "training" else None,
            "seconds": sum(record["seconds"] for record in records),
            "loss": _latest(records, "metrics", "loss_before", "loss_after"),
            "curve": _curve(records),
            "metric": _metric(records, summary),
            "metric_curve": _metric_curve(records),
            "bytes_down": sum(record["cost"]["message_bytes_down"] for record in records),
            "bytes_up": sum(record["cost"]["message_bytes_up"] for record in records),
            "sites": _places(records, federation),
            "events": _events(records),
            "theta_sha256": (summary or {}).get("theta_sha256"),
        }

    def _phase(self, finished: int, rounds: int, complete: bool) -> Phase:
        if complete:
            return "finished"
        if self._directory.failure():
            return "failed"
        if not self._is_held():
            return "stopped"
        if finished >= rounds:
            return "evaluating"
        return "training" if finished else "waiting"

    def _is_held(self) -> bool:
        """Return whether a command holds the folder; one on another machine cannot be asked."""
        try:
            note = json.loads((self._directory.path / ".command.json").read_text())
        except (OSError, ValueError):
            return False
        return pid_exists(int(note["pid"]))


def _pace(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the median seconds of the last rounds."""
    if not records:
        return None
    return float(statistics.median(record["seconds"] for record in records[-RECENT_ROUNDS:]))


def _left(records: Sequence[Mapping[str, Any]], rounds: int) -> float | None:
    pace = _pace(records)
    return None if pace is None else pace * (rounds - len(records))


def _latest(
    records: Sequence[Mapping[str, Any]], part: str, before: str, after: str
) -> dict[str, float | None]:
    last: Mapping[str, Any] = records[-1].get(part, {}) if records else {}
    return {"before": last.get(before), "after": last.get(after)}


def _curve(records: Sequence[Mapping[str, Any]]) -> list[list[float | None]]:
    """Return [round, loss before, loss after] of at most `MAX_POINTS` rounds, the last included."""
    points = [
        [record["round"], record["metrics"].get("loss_before"), record["metrics"].get("loss_after")]
        for record in records
    ]
    return _thinned(points)


def _metric_curve(records: Sequence[Mapping[str, Any]]) -> list[list[float | None]]:
    """Return [round, before, after] of the headline metric on validation clients."""
    points: list[list[float | None]] = []
    for record in records:
        if evaluation := record.get("evaluation"):
            name = _headline(evaluation)
            points.append(
                [record["round"], evaluation.get(f"{name}:before"), evaluation.get(f"{name}:after")]
            )
    return _thinned(points)


def _thinned(points: list[list[float | None]]) -> list[list[float | None]]:
    step = -(-len(points) // MAX_POINTS) if points else 1
    return points[::-1][::step][::-1]


def _headline(evaluation: Mapping[str, Any]) -> str:
    """Return the first metric of an evaluation: its names are "metric:stage", in order."""
    return next(iter(evaluation)).partition(":")[0]


def _metric(
    records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return the headline metric before and after adapting: at the end, or as last evaluated."""
    if summary is not None:
        found = summary["metric"]
        return {name: found[name] for name in ("name", "unit", "before", "after")} | {
            "of": f"{summary['clients_evaluated']} test clients"
        }
    evaluated = [record for record in records if record.get("evaluation")]
    if not evaluated:
        return None
    last = evaluated[-1]
    name = _headline(last["evaluation"])
    return {
        "name": name,
        "unit": "",
        "before": last["evaluation"].get(f"{name}:before"),
        "after": last["evaluation"].get(f"{name}:after"),
        "of": f"validation clients after round {last['round']}",
    }


def _places(
    records: Sequence[Mapping[str, Any]], federation: Federation | None
) -> list[dict[str, Any]]:
    """Return the sites of a run, each with its state and the reason for it."""
    known: dict[str, Place] = {}
    if federation is not None:
        known = {name: _connection(name, federation) for name in federation.sites}
    for record in records:
        for event in record.get("events", ()):
            _happened(known, event, record["round"])
        for rejection in record["rejected"]:
            for name in _who(rejection, federation):
                before = known.get(name, Place(name, ""))
                known[name] = Place(
                    name, "left out", _reason(rejection), record["round"], before.left_out + 1
                )
        left_out = {name for each in record["rejected"] for name in _who(each, federation)}
        for name, place in known.items():
            if place.state == "left out" and name not in left_out:
                known[name] = Place(name, "takes part", since=record["round"],
                                    left_out=place.left_out)  # fmt: skip
    return [asdict(place) for place in known.values()]


def _connection(name: str, federation: Federation) -> Place:
    if federation.connected is None:
        return Place(name, "not known")
    if name in federation.connected:
        return Place(name, "connected")
    return Place(name, "away", "not connected; `fedmaml site doctor` there says why")


def _happened(known: dict[str, Place], event: Mapping[str, Any], round: int) -> None:
    name = event["node"]
    before = known.get(name, Place(name, ""))
    if event["what"] == "joined" and before.state != "away":
        known[name] = Place(name, "takes part", since=round, left_out=before.left_out)
    elif event["what"] == "left":
        known[name] = Place(name, "away", "not there at the roll call", round, before.left_out)
    elif event["what"] == "refused":
        known[name] = Place(name, "refused", event["why"], round, before.left_out)


def _who(rejection: Mapping[str, Any], federation: Federation | None) -> list[str]:
    """Return the sites of a rejection: by its clients where a coordinator numbered the sites."""
    if federation is not None and rejection["clients"]:
        count = len(federation.sites)
        numbers = dict.fromkeys(client % count for client in rejection["clients"])
        return [federation.sites[number] for number in numbers]
    return [f"node {rejection['node']}"] if rejection["node"] else []


def _clients(numbers: Sequence[int]) -> str:
    return f"client {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} clients"


def _reason(rejection: Mapping[str, Any]) -> str:
    return f"{REASONS.get(rejection['reason'], rejection['reason'])} ({rejection['detail']})"


def _events(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the last events and refused updates, the newest first."""
    found: list[dict[str, Any]] = []
    for record in reversed(records):
        if len(found) >= MAX_EVENTS:
            break
        found += [
            {"round": record["round"], "what": f"{each['reason']}: {each['detail']}",
             "who": _clients(each["clients"])}
            for each in record["rejected"]
        ]  # fmt: skip
        found += [
            {"round": record["round"], "what": " ".join(filter(None, (each["what"], each["why"]))),
             "who": each["node"] or "the run"}
            for each in record.get("events", ())
        ]  # fmt: skip
    return found[:MAX_EVENTS]
