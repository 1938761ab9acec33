"""Watching a run: its state, the numbers for Prometheus, and the page that follows it."""

import json
import re
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from fedmaml.watching.following import Lines
from fedmaml.watching.prometheus import exposition
from fedmaml.watching.snapshot import MAX_POINTS, Federation, Watch
from tests.commands import fedmaml
from tests.watching.conftest import ROUNDS
from tests.watching.serving import copied, served

LARGEST_PAGE = 300_000  # bytes
# --- the state --------------------------------------------------------------------------------


def test_a_finished_run_has_its_result(run: Path) -> None:
    state = Watch(run).snapshot()
    summary = json.loads((run / "summary.json").read_text())
    assert (state["phase"], state["round"], state["rounds"]) == ("finished", ROUNDS, ROUNDS)
    assert state["metric"]["after"] == summary["metric"]["after"]
    assert state["theta_sha256"] == summary["theta_sha256"]
    assert [point[0] for point in state["curve"]] == [1, 2, 3, 4]
    assert [point[0] for point in state["metric_curve"]] == [2, 4]
    assert state["bytes_up"] == sum(
        json.loads(line)["cost"]["message_bytes_up"]
        for line in (run / "rounds.jsonl").read_text().splitlines()
    )
    json.dumps(state, allow_nan=False)


def test_a_run_that_no_command_holds_has_stopped(run: Path, tmp_path: Path) -> None:
    state = Watch(copied(run, tmp_path / "cut", 3)).snapshot()
    assert (state["phase"], state["round"]) == ("stopped", 3)
    assert state["metric"]["of"] == "validation clients after round 2"


def test_time_left_is_that_of_the_rounds_that_are_left(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "goes-on", 3)
    (folder / ".command.json").write_text(json.dumps({"pid": 1}))  # a process that lives
    state = Watch(folder).snapshot()
    assert state["phase"] == "training"
    assert state["seconds_left"] == pytest.approx(state["seconds_per_round"])


def test_a_run_that_failed_says_why(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "failed", 2)
    (folder / "error.txt").write_text("QuorumError: nobody answered in round 3\n")
    state = Watch(folder).snapshot()
    assert (state["phase"], state["why"]) == ("failed", "nobody answered in round 3")


def test_a_run_that_has_not_begun_is_waited_for(tmp_path: Path) -> None:
    federation = Federation(("a", "b"), ("b",))
    state = Watch(tmp_path / "later", lambda: federation).snapshot()
    assert state["phase"] == "waiting"
    assert [(site["name"], site["state"]) for site in state["sites"]] == [
        ("a", "away"), ("b", "connected"),
    ]  # fmt: skip
    assert "fedmaml site doctor" in state["sites"][0]["reason"]


def record(round: int, rejected: list[dict[str, Any]], *events: dict[str, str]) -> dict[str, Any]:
    return {
        "round": round, "cohort": 2, "clients": 2 - len(rejected), "weight": 2.0, "seconds": 1.0,
        "metrics": {"loss_before": 1.0, "loss_after": 0.5}, "rejected": rejected,
        "cost": {"message_bytes_down": 1, "message_bytes_up": 1}, "events": list(events),
    }  # fmt: skip


def test_a_site_that_was_left_out_has_the_reason_until_it_is_back(
    run: Path, tmp_path: Path
) -> None:
    late = {"reason": "NO_REPLY", "detail": "no answer", "node": "77", "clients": [1]}
    joined = [{"what": "joined", "node": name, "why": ""} for name in ("a", "b")]
    folder = copied(run, tmp_path / "sites", 0)
    records = [record(1, [], *joined), record(2, [late]), record(3, [late]), record(4, [])]
    watch = Watch(folder, lambda: Federation(("a", "b"), ("a", "b")))
    seen = []
    for each in records:
        with (folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(each) + "\n")
        a, b = watch.snapshot()["sites"]
        assert (a["state"], a["left_out"]) == ("takes part", 0)
        seen.append((b["state"], b["left_out"], b["since"]))
    assert seen == [
        ("takes part", 0, 1), ("left out", 1, 2), ("left out", 2, 3), ("takes part", 2, 4),
    ]  # fmt: skip
    (event, *_) = watch.snapshot()["events"]
    assert (event["round"], event["what"]) == (3, "NO_REPLY: no answer")


def test_a_long_run_is_thinned_and_keeps_its_last_round(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "long", 0)
    lines = "".join(json.dumps(record(round, [])) + "\n" for round in range(1, 2501))
    (folder / "rounds.jsonl").write_text(lines)
    curve = Watch(folder).snapshot()["curve"]
    assert MAX_POINTS / 2 < len(curve) <= MAX_POINTS
    assert curve[-1][0] == 2500


def test_lines_are_read_once_and_anew_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    lines = Lines(path)
    assert lines.read() == []
    path.write_text('{"round": 1}\n{"round": 2}\n{"rou')
    assert [each["round"] for each in lines.read()] == [1, 2]
    path.write_text('{"round": 1}\n')
    assert [each["round"] for each in lines.read()] == [1]
    with path.open("a") as file:
        file.write('{"round": 2, "again": true}\n')
    assert lines.read()[-1] == {"round": 2, "again": True}


# --- Prometheus -------------------------------------------------------------------------------


def test_metrics_are_prometheus_text(run: Path) -> None:
    federation = Federation(('a"b', "c"), ("c",))
    text = exposition(Watch(run, lambda: federation).snapshot())
    line = re.compile(r'^[a-z_]+(\{([a-z]+="([^"\\]|\\.)*",?)+\})? [-+0-9.e]+$')
    helped = set()
    for each in text.splitlines():
        if each.startswith("# "):
            helped.add(each.split()[2])
        else:
            assert line.match(each), each
            assert re.split(r"[{ ]", each)[0] in helped
    assert "fedmaml_round 4\n" in text
    assert 'fedmaml_site_up{site="a\\"b"} 0\n' in text
    assert 'fedmaml_phase{phase="finished"} 1\n' in text


# --- the page ---------------------------------------------------------------------------------


@pytest.fixture
def address(run: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A page that follows a run of two finished rounds."""
    folder = copied(run, tmp_path / "served", 2)
    with served(Watch(folder)) as url:
        yield url, folder


def test_the_page_is_small_and_asks_nobody_else(address: tuple[str, Path]) -> None:
    with urlopen(address[0]) as answer:
        text = answer.read()
        policy = answer.headers["Content-Security-Policy"]
    assert len(text) < LARGEST_PAGE
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    own = text.decode().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?:|//[a-z]|<link[^>]+href=\"(?!data:)", own)


def test_an_update_is_at_most_two_seconds_old(address: tuple[str, Path], run: Path) -> None:
    url, folder = address
    third = (run / "rounds.jsonl").read_text().splitlines(keepends=True)[2]
    with urlopen(f"{url}/events", timeout=10) as events:
        assert json.loads(events.readline().removeprefix(b"data: "))["round"] == 2
        assert events.readline() == b"\n"
        with (folder / "rounds.jsonl").open("a") as file:
            file.write(third)
        began = time.monotonic()
        assert json.loads(events.readline().removeprefix(b"data: "))["round"] == 3
        assert time.monotonic() - began < 2.0
    with urlopen(f"{url}/state") as state:
        assert json.load(state)["round"] == 3
    with urlopen(f"{url}/metrics") as metrics:
        assert b"fedmaml_round 3" in metrics.read()


def test_a_foreign_name_for_this_machine_is_refused(address: tuple[str, Path]) -> None:
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(f"{address[0]}/state", headers={"Host": "evil.example"}))


def test_everything_in_the_page_is_escaped() -> None:
    text = files("fedmaml.watching").joinpath("page.html").read_text()
    assert "innerHTML" not in text
    assert "insertAdjacentHTML" not in text
    assert "eval(" not in text


def test_status_needs_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "fed"
    options = ("--address", "localhost:9443", "--site", "a")
    assert fedmaml("coordinator", "init", str(folder), *options, cwd=tmp_path).returncode == 0
    done = fedmaml("coordinator", "status", str(folder), cwd=tmp_path)
    assert "has begun no run yet" in done.stderr


def test_status_shows_run_and_sites(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fed"
    options = ("--address", "localhost:9443", "--site", "a", "--site", "b")
    fedmaml("coordinator", "init", str(folder), *options, cwd=tmp_path)
    (folder / "status.json").write_text(json.dumps({"run": str(run), "connected": ["b"]}))
    shown = fedmaml("coordinator", "status", str(folder), cwd=tmp_path).stdout
    assert f"{run}: finished" in shown
    assert "round 4 of 4" in shown
    assert "a: away: not connected" in shown
    state = json.loads(fedmaml("coordinator", "status", str(folder), "--json", cwd=tmp_path).stdout)
    assert state["phase"] == "finished"
