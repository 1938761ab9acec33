"""The simulated clock: the formula by hand, the slowest client, targets, and what it refuses."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedmaml.clock.profiles import Profile, load_profile, profiles
from fedmaml.clock.rows import clock, clock_all
from fedmaml.clock.timeline import simulate
from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.errors import ConfigurationError, FedmamlError, RunDirectoryError
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.cohort import choose
from fedmaml.tables.clocks import clock_table

EVEN = Profile(down_mbit_s=2.0, up_mbit_s=0.5, round_trip_ms=100, gflop_s=0.01, name="even")
UNEVEN = replace(EVEN, link_spread=1.0, device_spread=0.5, name="uneven")
PAYLOAD = 4 * 2410  # bytes each way: the entries of the network of digits
CLIENTS, COHORT, ROUNDS = 12, 4, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies evaluated every second round, and one that never is."""
    out = tmp_path_factory.mktemp("runs")
    base = {"scenario": "digits", "rounds": ROUNDS, "clients": COHORT, "seed": 3,
            "task.train_clients": CLIENTS, "task.validation_clients": 4,
            "task.test_clients": 2}  # fmt: skip
    for strategy, every in (("fomaml", 2), ("fedavg", 2), ("reptile", 0)):
        config = resolve(base, {"strategy": strategy, "evaluation.every": every})
        execute(config, out / strategy)
    execute(resolve(base, {"strategy": "local", "rounds": 0, "evaluation.every": 2}), out / "local")
    execute(resolve({"scenario": "quadratic", "strategy": "fomaml", "rounds": 1,
                     "evaluation.every": 1}), out / "quadratic")  # fmt: skip
    return out


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> RunDirectory:
    """A run that a test may damage."""
    shutil.copytree(folder / "fomaml", tmp_path / "run")
    return RunDirectory(tmp_path / "run")


# --- time -------------------------------------------------------------------------------------


def test_time_of_a_round_is_waiting_and_transfer_and_computation(folder: Path) -> None:
    directory = RunDirectory(folder / "fomaml")
    flops = directory.rounds()[0]["cost"]["flops"] / COHORT
    link = 3 * 0.1 + 8 * PAYLOAD / 2e6 + 8 * PAYLOAD / 0.5e6
    row = clock(directory, EVEN)
    assert row.seconds_link == pytest.approx(link, rel=1e-12)
    assert row.seconds_device == pytest.approx(flops / 1e7, rel=1e-12)
    assert row.seconds_total == pytest.approx(ROUNDS * (link + flops / 1e7), rel=1e-12)
    assert (row.rounds, row.strategy, row.profile) == (ROUNDS, "fomaml", "even")


def test_a_round_waits_for_the_slowest_client_of_its_own_cohort(folder: Path) -> None:
    directory = RunDirectory(folder / "fomaml")
    timeline = simulate(directory, UNEVEN, seed=5)
    flops = directory.rounds()[0]["cost"]["flops"] / COHORT
    factors = seeding.normal(seeding.key(5, "clock"), range(CLIENTS), 2)
    each = [
        0.3
        + (8 * PAYLOAD / 2e6 + 8 * PAYLOAD / 0.5e6) * float((-1.0 * link).exp())
        + flops / 1e7 * float((-0.5 * device).exp())
        for link, device in factors
    ]
    for number in range(1, ROUNDS + 1):
        cohort = choose(3, number, range(CLIENTS), COHORT)
        took = timeline.link[number - 1] + timeline.device[number - 1]
        assert took == pytest.approx(max(each[client] for client in cohort), rel=1e-9)
    assert len(set(timeline.link)) > 1
    assert timeline.finished[-1] == pytest.approx(sum(timeline.link) + sum(timeline.device))


def test_clients_are_slow_under_every_strategy_and_other_ones_with_another_seed(
    folder: Path,
) -> None:
    fomaml, fedavg = (
        simulate(RunDirectory(folder / name), UNEVEN).link for name in ("fomaml", "fedavg")
    )
    assert fomaml == fedavg  # same cohorts, same bytes, same links
    assert simulate(RunDirectory(folder / "fomaml"), UNEVEN, seed=1).link != fomaml


def test_a_round_without_updates_takes_what_rounds_take_on_average(run: RunDirectory) -> None:
    records = run.rounds()
    whole = clock(run, EVEN).seconds_total
    records[2]["cost"] |= {"updates": 0, "updates_measured": 0, "flops": 0, "payload_bytes_up": 0}
    write(run, records)
    assert clock(run, EVEN).seconds_total == pytest.approx(whole, rel=1e-12)


# --- targets ----------------------------------------------------------------------------------


def test_target_is_reached_at_the_first_evaluated_round_that_is_as_good(run: RunDirectory) -> None:
    evaluate(run, [0.5, 0.7, 0.6])
    row = clock(run, EVEN, target=0.6)
    assert (row.reached_round, row.best) == (4, 0.7)
    assert row.seconds_to_target == pytest.approx(4 * row.seconds_total / ROUNDS)
    assert clock(run, EVEN, target=0.5).reached_round == 2
    missed = clock(run, EVEN, target=0.71)
    assert (missed.reached_round, missed.seconds_to_target, missed.best) == (None, None, 0.7)


def test_where_less_is_better_the_target_is_an_upper_bound(run: RunDirectory) -> None:
    evaluate(run, [0.5, 0.4, 0.3])
    summary = run.summary()
    assert summary is not None
    summary["metric"]["better"] = "lower"
    (run.path / "summary.json").write_text(json.dumps(summary))
    row = clock(run, EVEN, target=0.4)
    assert (row.reached_round, row.best) == (4, 0.3)


def test_a_run_without_rounds_takes_no_time_and_reaches_nothing(folder: Path) -> None:
    row = clock(RunDirectory(folder / "local"), EVEN, target=0.1)
    assert (row.rounds, row.seconds_total, row.seconds_per_round) == (0, 0, None)
    assert (row.best, row.seconds_to_target) == (None, None)


def test_every_row_says_that_it_is_simulated(folder: Path) -> None:
    runs = [RunDirectory(folder / name) for name in ("fomaml", "fedavg")]
    rows = clock_all(runs, [EVEN, UNEVEN])
    assert [(row.profile, row.strategy) for row in rows] == [
        ("even", "fomaml"), ("even", "fedavg"), ("uneven", "fomaml"), ("uneven", "fedavg"),
    ]  # fmt: skip
    assert all(row.to_json()["simulated"] is True for row in rows)


# --- profiles ---------------------------------------------------------------------------------


def test_shipped_profiles_order_links_and_devices_as_their_names_say() -> None:
    shipped = profiles()
    order = ["hospital-fibre", "hospital-vpn", "4g-phone", "iot"]
    assert sorted(shipped) == sorted(order)
    for key in ("down_mbit_s", "up_mbit_s", "gflop_s"):
        values = [getattr(shipped[name], key) for name in order]
        assert values == sorted(values, reverse=True)
    assert all(profile.about for profile in shipped.values())
    assert [load_profile(name) for name in order] == [shipped[name] for name in order]


GOOD = "down_mbit_s = 8\nup_mbit_s = 2\nround_trip_ms = 20\ngflop_s = 1\n"


def test_a_profile_of_ones_own_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "ship.toml"
    path.write_text(GOOD)
    profile = load_profile(str(path))
    assert (profile.name, profile.up_mbit_s, profile.link_spread) == ("ship", 2.0, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "link_sprad = 1", "unknown key 'link_sprad'; did you mean 'link_spread'"),
        (GOOD.replace("gflop_s = 1", ""), "gflop_s is missing"),
        (GOOD.replace("= 8", "= 0"), "down_mbit_s = 0: input should be greater than 0"),
        (GOOD.replace("= 8", "= 'fast'"), "down_mbit_s = 'fast': input should be a valid number"),
        (GOOD.replace("= 8", "= inf"), "down_mbit_s = inf: input should be a finite number"),
        (GOOD + "x =", "is not valid TOML"),
    ],
)
def test_wrong_profiles_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"own.toml.*{message}"):
        load_profile(str(path))


def test_unknown_profiles_are_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such profile; did you mean '4g-phone'"):
        load_profile("4g_phone")
    with pytest.raises(ConfigurationError, match=r"cannot read profile .*No such file"):
        load_profile(str(tmp_path / "none.toml"))


# --- what is refused --------------------------------------------------------------------------


def test_a_target_needs_evaluated_rounds(folder: Path) -> None:
    directory = RunDirectory(folder / "reptile")
    assert clock(directory, EVEN).best is None
    with pytest.raises(ConfigurationError, match=r"no round was evaluated.*evaluation\.every=5"):
        clock(directory, EVEN, target=0.8)


def test_one_target_is_not_asked_of_different_problems(folder: Path) -> None:
    runs = [RunDirectory(folder / name) for name in ("fomaml", "quadratic")]
    assert len(clock_all(runs, [EVEN])) == 2
    with pytest.raises(ConfigurationError, match=r"different problems .*accuracy on digits"):
        clock_all(runs, [EVEN], target=0.8)


def test_a_run_that_is_cut_short_is_refused(run: RunDirectory) -> None:
    write(run, run.rounds()[:-1])
    with pytest.raises(RunDirectoryError, match=r"rounds.jsonl has 5 of 6 lines.*run it again"):
        clock(run, EVEN)
    (run.path / "summary.json").unlink()
    with pytest.raises(
        RunDirectoryError, match=r"is not complete: there is no summary.json, .* 5 of 6 rounds"
    ):
        clock(run, EVEN)


def test_a_run_that_does_not_say_what_its_clients_computed_is_refused(run: RunDirectory) -> None:
    records = run.rounds()
    for record in records:
        record["cost"] |= {"updates_measured": 0, "flops": 0}
    write(run, records)
    with pytest.raises(RunDirectoryError, match="does not say what its clients computed"):
        clock(run, EVEN)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FedmamlError, match="holds no run"):
        clock(RunDirectory(tmp_path), EVEN)


# --- command line -----------------------------------------------------------------------------


def test_the_table_says_who_is_first_on_a_link(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [RunDirectory(folder / name) for name in ("fomaml", "fedavg", "local")]
    rows = [replace(row, run=row.strategy) for row in clock_all(runs, [EVEN], target=0.01)]
    clock_table(rows)
    shown = capsys.readouterr().out
    assert "SIMULATED wall-clock time on even; target: accuracy 0.01" in shown
    first = min(rows[:2], key=lambda row: row.seconds_to_target or 0)
    assert f"First to accuracy 0.01: {first.strategy}, after" in shown
    assert "never" in shown  # local, which has no rounds
    clock_table(clock_all(runs, [EVEN], target=1.1))
    assert "No run reaches accuracy 1.1 on validation clients" in capsys.readouterr().out


def test_clock_is_a_command(folder: Path) -> None:
    command = [sys.executable, "-m", "fedmaml.cli", "clock", "fomaml", "fedavg"]
    options = ["--profile", "iot", "--target", "0.01", "--json"]
    reported = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    rows = json.loads(reported)
    assert [(row["run"], row["simulated"]) for row in rows] == [("fomaml", True), ("fedavg", True)]
    assert all(row["seconds_to_target"] > 0 for row in rows)


def write(run: RunDirectory, records: list[dict]) -> None:  # type: ignore[type-arg]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run.path / "rounds.jsonl").write_text(text)


def evaluate(run: RunDirectory, values: list[float]) -> None:
    """Let validation clients have had these accuracies in rounds 2, 4 and 6."""
    records = run.rounds()
    for number, value in zip((2, 4, 6), values, strict=True):
        records[number - 1]["evaluation"]["accuracy:after"] = value
    write(run, records)
