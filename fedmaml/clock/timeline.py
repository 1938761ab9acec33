"""From a run directory and a profile to the simulated seconds of every round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedmaml.clock.profiles import Profile
from fedmaml.core import seeding
from fedmaml.core.costs import Cost
from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.cohort import choose

_MEGA, _GIGA, _BITS = 1e6, 1e9, 8


@dataclass(frozen=True)
class Timeline:
    """The simulated times of a run.

    Attributes:
        link: Round -> seconds that its slowest client waits for its link.
        device: Round -> seconds that the same client computes.
        metric: Headline metric of the validation clients after adaptation.
        better: "higher" or "lower".
        evaluations: Round and mean over validation clients, where they were evaluated.
    """

    link: tuple[float, ...]
    device: tuple[float, ...]
    metric: str
    better: str
    evaluations: tuple[tuple[int, float], ...]

    @cached_property
    def finished(self) -> tuple[float, ...]:
        """Simulated seconds from the start to the end of each round."""
        return tuple(accumulate(map(sum, zip(self.link, self.device, strict=True))))

    def reached(self, target: float) -> int | None:
        """Return the first round evaluated at least as good as a target; None if none was."""
        for number, value in self.evaluations:
            if value >= target if self.better == "higher" else value <= target:
                return number
        return None


def simulate(directory: RunDirectory, profile: Profile, seed: int = 0) -> Timeline:
    """Return the simulated times of a finished run; arguments and errors as of `clock`."""
    summary, config = complete_summary(directory), directory.config_table()
    records = directory.rounds()
    costs = _costs(directory.path, records)
    total = sum(costs, Cost())
    key = seeding.key(seed, "clock")
    everyone = range(int(summary["clients_train"]))
    link, device = [], []
    for number, cost in enumerate(costs, 1):
        cohort = choose(int(config["seed"]), number, everyone, int(config["clients"]))
        on_link, on_device = _slowest(profile, cost, total, cohort, key)
        link.append(on_link)
        device.append(on_device)
    metric = summary["metric"]
    column = f"{metric['name']}:after"
    evaluations = [
        (int(record["round"]), float(record["evaluation"][column]))
        for record in records
        if record.get("evaluation", {}).get(column) is not None
    ]
    return Timeline(
        tuple(link), tuple(device), str(metric["name"]), str(metric["better"]), tuple(evaluations)
    )


def _slowest(
    profile: Profile, cost: Cost, total: Cost, cohort: Sequence[int], key: int
) -> tuple[float, float]:
    """Return seconds on the link and on the device of a cohort's slowest client.

    For a round of which no update was used, the mean over the run stands in.
    """
    each, mean = cost.per_client_and_round(), total.per_client_and_round()
    down, up, flops = (
        (each[name] if each[name] is not None else mean[name]) or 0.0
        for name in ("payload_bytes_down", "payload_bytes_up", "flops")
    )
    transfer = _BITS / _MEGA * (down / profile.down_mbit_s + up / profile.up_mbit_s)
    waiting = profile.round_trips * profile.round_trip_ms / 1e3
    factors = seeding.normal(key, cohort, 2)
    on_link = waiting + transfer * (-profile.link_spread * factors[:, 0]).exp()
    on_device = flops / (profile.gflop_s * _GIGA) * (-profile.device_spread * factors[:, 1]).exp()
    last = int((on_link + on_device).argmax())
    return float(on_link[last]), float(on_device[last])


def _costs(path: Path, records: Sequence[Mapping[str, Any]]) -> list[Cost]:
    costs = [Cost.from_json(record["cost"]) for record in records]
    if costs and not any(cost.updates_measured for cost in costs):
        raise RunDirectoryError(
            f"{path} does not say what its clients computed (updates_measured is 0 in every round "
            "of rounds.jsonl): without these costs their time cannot be simulated"
        )
    return costs
