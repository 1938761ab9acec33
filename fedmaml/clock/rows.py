"""From runs and profiles to rows of a table: time per round, and time to a target."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedmaml.clock.profiles import Profile
from fedmaml.clock.timeline import simulate
from fedmaml.core.errors import ConfigurationError
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory


@dataclass(frozen=True)
class ClockRow:
    """One run on one profile; all times are simulated.

    Attributes:
        run: Its directory, as it was given.
        seconds_link: Of the slowest client of a round, mean over rounds; None without rounds.
        seconds_device: The same.
        seconds_per_round: Their sum.
        seconds_total: All rounds.
        best: Best mean over validation clients; None if they were not evaluated.
        target: Value to reach; None without a target.
        reached_round: First evaluated round that reaches it; None if none does.
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
        RunDirectoryError: If the run is not complete, or does not report its costs.
        ConfigurationError: If there is a target, and no round was evaluated.
    """
    timeline, config = simulate(directory, profile, seed), directory.config_table()
    rounds = len(timeline.link)
    if target is not None and rounds and not timeline.evaluations:
        raise ConfigurationError(
            f"{directory.path}: no round was evaluated on validation clients, so it is unknown "
            f"when {timeline.metric} reaches {target:g}; run it again with "
            "--set evaluation.every=5, in a scenario with validation clients"
        )
    reached = None if target is None else timeline.reached(target)
    values = [value for _, value in timeline.evaluations]
    best = max if timeline.better == "higher" else min
    link, device = sum(timeline.link), sum(timeline.device)
    return ClockRow(
        run=str(directory.path),
        scenario=str(config["scenario"]),
        strategy=str(config["strategy"]),
        seed=int(config["seed"]),
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
        ConfigurationError: If there is a target, and the runs have different scenarios.
    """
    summaries = [complete_summary(run) for run in directories]
    kinds = dict.fromkeys(f"{each['metric']['name']} on {each['scenario']}" for each in summaries)
    if target is not None and len(kinds) > 1:
        names = ", ".join(kinds)
        raise ConfigurationError(
            f"target = {target:g} cannot be the same for different problems ({names}); name runs "
            "of one scenario at a time, or no target"
        )
    return [clock(run, profile, target, seed) for profile in chosen for run in directories]
