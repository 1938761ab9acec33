"""SIMULATED wall-clock time: what a finished run would have taken on given links and devices.

    client i in a round    T_i = r t + 8 down / (B_down b_i) + flops / (S s_i) + 8 up / (B_up b_i)
    a round                max of T_i over its cohort: the server waits for the slowest
    b_i, s_i               exp(spread * z), z standard normal: drawn once for each client and kept,
                           so that a slow phone stays slow, in every run and under every strategy

Bytes and operations are the run's own (``cost`` in rounds.jsonl), means over the clients of a
round; B, S, t and r come from a profile. Cohorts are those of the run. What is not in it: the
server's time, evaluations, Flower's envelopes (about 2 kB a message), HTTP and TLS framing, links
that change, and devices that go away.

    profile = load_profile("4g-phone")
    row = clock(RunDirectory(path), profile, target=0.8)      # data in, data out
    simulate(RunDirectory(path), profile).finished            # seconds at the end of each round
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import ValidationError

from fedmaml.config import nearest
from fedmaml.core import seeding
from fedmaml.core.costs import Cost
from fedmaml.core.errors import ConfigurationError, RunDirectoryError
from fedmaml.core.settings import settings
from fedmaml.server.cohort import choose
from fedmaml.server.run_directory import RunDirectory

_PROFILES = files("fedmaml") / "profiles"
_MEGA, _GIGA, _BITS = 1e6, 1e9, 8


@settings
class Profile:
    """A link and a device.

    Attributes:
        down_mbit_s: Median bandwidth to the client, in 10^6 bit/s.
        up_mbit_s: Median bandwidth from the client.
        round_trip_ms: Time there and back of an empty message.
        gflop_s: Median speed of the client's device, in 10^9 operations/s, as reached in training.
        link_spread: Standard deviation of the logarithm of a client's bandwidth; 0: all are equal.
        device_spread: The same of its speed.
        round_trips: Waited for in a round: TCP, TLS 1.3, and request with answer make three.
        about: One line for ``fedmaml list``.
        name: As it is shown; "" becomes that of its file.
    """

    down_mbit_s: Annotated[float, Gt(0)]
    up_mbit_s: Annotated[float, Gt(0)]
    round_trip_ms: Annotated[float, Ge(0)]
    gflop_s: Annotated[float, Gt(0)]
    link_spread: Annotated[float, Ge(0), Le(5)] = 0.0
    device_spread: Annotated[float, Ge(0), Le(5)] = 0.0
    round_trips: Annotated[int, Ge(1)] = 3
    about: str = ""
    name: str = ""


@dataclass(frozen=True)
class Timeline:
    """The simulated times of a run.

    Attributes:
        link: Round -> seconds that its slowest client waits for its link.
        device: Round -> seconds that the same client computes.
        metric: What validation clients were judged by, after adaptation.
        better: "higher" or "lower".
        evaluations: Round and mean over validation clients, where they were judged.
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
        """Return the first round that was judged at least as good as a target; None: none was."""
        for number, value in self.evaluations:
            if value >= target if self.better == "higher" else value <= target:
                return number
        return None


@dataclass(frozen=True)
class ClockRow:
    """One run on one profile; all times are simulated.

    Attributes:
        run: Its directory, as it was given.
        seconds_link: Of the slowest client of a round, mean over rounds; None without rounds.
        seconds_device: The same.
        seconds_per_round: Their sum.
        seconds_total: All rounds.
        best: Best mean over validation clients; None if they were not judged.
        target: Value that is to be reached; None if none was asked for.
        reached_round: First judged round that reaches it; None if none does.
        seconds_to_target: Until the end of that round.
    """

    run: str
    scenario: str
    strategy: str
    seed: int
    profile: str
    rounds: int
    seconds_link: float | None
    seconds_device: float | None
    seconds_per_round: float | None
    seconds_total: float
    metric: str
    best: float | None
    target: float | None
    reached_round: int | None
    seconds_to_target: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; they say that they are simulated."""
        return {"simulated": True, **asdict(self)}


# --- profiles ---------------------------------------------------------------------------------


def profiles() -> dict[str, Profile]:
    """Return the profiles that come with fedmaml, by name."""
    shipped = (path for path in _PROFILES.iterdir() if path.name.endswith(".toml"))
    made = [_profile(path.name, path.read_text(encoding="utf-8")) for path in shipped]
    return {profile.name: profile for profile in sorted(made, key=lambda profile: profile.name)}


def load_profile(name: str) -> Profile:
    """Return a profile by its name, or from a TOML file.

    Raises:
        ConfigurationError: If there is none, or if a value in it is wrong.
    """
    shipped = profiles()
    if name in shipped:
        return shipped[name]
    if not name.endswith(".toml"):
        raise ConfigurationError(
            f"profile {name!r}: there is no such profile{nearest(name, shipped)}; known: "
            f"{', '.join(shipped)} (fedmaml list profiles), or the path of a .toml file"
        )
    try:
        return _profile(name, Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read profile {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"profile {name} is not valid TOML: {error}") from error


def _profile(path: str, text: str) -> Profile:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"profile {path} is not valid TOML: {error}") from error
    fields = Profile.__dataclass_fields__
    for key in table:
        if key not in fields:
            raise ConfigurationError(
                f"profile {path}: unknown key {key!r}{nearest(key, fields)}; known: "
                f"{', '.join(fields)}"
            )
    try:
        return Profile(**{"name": Path(path).stem, **table})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ConfigurationError(f"profile {path}: {key} is missing") from error
        raise ConfigurationError(
            f"profile {path}: {key} = {first['input']!r}: {first['msg'].lower()}"
        ) from error


# --- time -------------------------------------------------------------------------------------


def clock(
    directory: RunDirectory, profile: Profile, target: float | None = None, seed: int = 0
) -> ClockRow:
    """Return the simulated times of a finished run, and when it reaches a target.

    Args:
        directory: Of the run.
        profile: Every client's link and device, up to its own factors.
        target: Of the scenario's first metric on validation clients after adaptation.
        seed: Determines the factors of the clients.

    Raises:
        RunDirectoryError: If the run is not complete, or does not say what it took.
        ConfigurationError: If a target is asked for, and no round was judged.
    """
    summary = _summary(directory)
    timeline = simulate(directory, profile, seed)
    rounds = len(timeline.link)
    if target is not None and rounds and not timeline.evaluations:
        raise ConfigurationError(
            f"{directory.path}: no round was judged on validation clients, so nobody knows when "
            f"{timeline.metric} reaches {target:g}; run it again with --set evaluation.every=5, "
            "in a scenario with validation clients"
        )
    reached = None if target is None else timeline.reached(target)
    values = [value for _, value in timeline.evaluations]
    best = max if timeline.better == "higher" else min
    link, device = sum(timeline.link), sum(timeline.device)
    return ClockRow(
        run=str(directory.path),
        scenario=str(summary["scenario"]),
        strategy=str(summary["strategy"]),
        seed=int(summary["seed"]),
        profile=profile.name,
        rounds=rounds,
        seconds_link=link / rounds if rounds else None,
        seconds_device=device / rounds if rounds else None,
        seconds_per_round=(link + device) / rounds if rounds else None,
        seconds_total=link + device,
        metric=timeline.metric,
        best=best(values) if values else None,
        target=target,
        reached_round=reached,
        seconds_to_target=None if reached is None else timeline.finished[reached - 1],
    )


def clock_all(
    directories: Sequence[RunDirectory],
    chosen: Sequence[Profile],
    target: float | None = None,
    seed: int = 0,
) -> list[ClockRow]:
    """Return a row for each profile and run, the runs of a profile in the order given.

    Raises:
        ConfigurationError: If a target is asked for, and the runs have different scenarios.
    """
    summaries = [_summary(run) for run in directories]
    kinds = dict.fromkeys(f"{each['metric']['name']} on {each['scenario']}" for each in summaries)
    if target is not None and len(kinds) > 1:
        told = ", ".join(kinds)
        raise ConfigurationError(
            f"target = {target:g} cannot be the same for different problems ({told}); ask for runs "
            "of one scenario at a time, or for no target"
        )
    return [clock(run, profile, target, seed) for profile in chosen for run in directories]


def simulate(directory: RunDirectory, profile: Profile, seed: int = 0) -> Timeline:
    """Return the simulated times of a finished run; arguments and errors as of `clock`."""
    summary, config = _summary(directory), directory.config_table()
    records = directory.rounds()
    costs = _costs(directory.path, records, int(summary["rounds"]))
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

    What a round cannot tell, since no update of it was used, is the mean over the run.
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


def _costs(path: Path, records: Sequence[Mapping[str, Any]], rounds: int) -> list[Cost]:
    if len(records) != rounds:
        raise RunDirectoryError(
            f"{path} is damaged: rounds.jsonl has {len(records)} of {rounds} rounds; run it again"
        )
    if any("cost" not in record for record in records):
        raise RunDirectoryError(
            f"{path} does not say what it took (no cost in rounds.jsonl): it was made by an older "
            "fedmaml; run it again"
        )
    costs = [Cost.from_json(record["cost"]) for record in records]
    if costs and not any(cost.updates_measured for cost in costs):
        raise RunDirectoryError(
            f"{path} does not say what its clients computed (updates_measured is 0 in every round "
            "of rounds.jsonl): its clients did not tell, so their time cannot be simulated"
        )
    return costs


def _summary(directory: RunDirectory) -> Mapping[str, Any]:
    table, summary = directory.config_table(), directory.summary()
    if summary is None:
        raise RunDirectoryError(
            f"{directory.path} is not complete: {len(directory.rounds())} of {table.get('rounds')} "
            "rounds are finished and there is no summary.json; run it again"
        )
    return summary


__all__ = [
    "ClockRow",
    "Profile",
    "Timeline",
    "clock",
    "clock_all",
    "load_profile",
    "profiles",
    "simulate",
]
