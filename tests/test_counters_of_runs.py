"""Counters of a scenario: the same totals on every way to compute, estimated, compared, reported.

All four training clients: 2 + 3 + 2 + 3 = 10 support and 4 x 4 = 16 query episodes a round.
One evaluation: validation clients 2 + 3 and 2 x 4, test clients 2 + 3 + 2 and 3 x 4.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from fedmaml.client import worker_pool
from fedmaml.client.app import app as client_app
from fedmaml.client.worker_processes import workers_of
from fedmaml.comparison.planning import plan
from fedmaml.config import RunConfig, resolve, to_run_config
from fedmaml.core.counters import counted_json
from fedmaml.core.errors import ConfigurationError, UnsupportedProblemError
from fedmaml.estimating import estimate
from fedmaml.exporting.records import recorded
from fedmaml.messages.checks import seal
from fedmaml.preflight import preflight
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.app import app as server_app
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.simulations.scenarios import CATALOGUE
from tests import episodes
from tests.commands import fedmaml
from tests.episodes import Episodes, units


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "episodes", Episodes)


def config(**settings: Any) -> RunConfig:
    """Return three rounds, with one evaluation of the validation clients after the second."""
    base = {"scenario": "episodes", "strategy": "maml", "evaluation.every": 2}
    return resolve(base | {key.replace("__", "."): value for key, value in settings.items()})


def outcome(out: Path, **settings: Any) -> tuple[list[Any], Any, Any]:
    """Run; return the counters of every round, of training and of evaluation."""
    cost = execute(config(**settings), out)["cost"]
    rounds = [record["cost"]["counters"] for record in RunDirectory(out).rounds()]
    return rounds, cost["totals"]["counters"], cost["evaluation"]["counters"]


EXPECTED = ([units(10, 16)] * 3, units(30, 48), units(5 + 7, 8 + 12))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"engine": "loop"},
        {"engine": "vmap"},
        {"client_batch": 2},
        {"nodes": 3},
        {"strategy": "fedavg"},
        {"strategy": "meta_sgd", "compression__method": "qsgd-4"},
        {"aggregation__rule": "median"},
        {"evaluation__steps": [1, 5], "evaluation__shots": [1]},
    ],
)
def test_examples_are_counted_once_a_round_and_evaluation(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    assert outcome(tmp_path / "run", **settings) == EXPECTED


def test_workers_count_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker_pool, "_train", episodes.train_in_worker)
    monkeypatch.setattr(worker_pool, "_evaluate", episodes.evaluate_in_worker)
    assert outcome(tmp_path / "run", workers=2, client_batch=2, engine="loop") == EXPECTED
    workers_of(2).end()


def test_means_and_what_a_unit_is_stand_in_the_summary(tmp_path: Path) -> None:
    cost = execute(config(), tmp_path / "run")["cost"]
    assert cost["per_client_and_round"]["counters"]["measurements"] == {"support": 2.5, "query": 4}
    assert cost["counters"] == {
        "environment_steps": "steps of the environment, 20 an episode",
        "measurements": "returns measured, one an episode",
    }
    values = next(iter(recorded(tmp_path / "run").points)).values
    assert values["cost/environment_steps/query"] == 320


def test_scenarios_without_counters_send_and_write_none(tmp_path: Path) -> None:
    sent: list[str] = []

    def spy(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        for record in reply.content.metric_records.values():
            sent.extend(record)
        return reply

    small = resolve({"scenario": "quadratic", "strategy": "maml", "rounds": 1})
    summary = _served(small, tmp_path / "run", spy)
    assert "flops" in sent
    assert not [name for name in sent if name.startswith("units")]
    (record,) = RunDirectory(tmp_path / "run").rounds()
    assert not {"counters"} & (
        set(record["cost"]) | set(summary["cost"]) | set(summary["cost"]["totals"])
        | set(summary["cost"]["evaluation"]) | set(summary["cost"]["per_client_and_round"])
    )  # fmt: skip


# --- estimated


@pytest.mark.parametrize("settings", [{}, {"nodes": 2}, {"clients": 3, "rounds": 7}])
def test_an_estimate_equals_the_run(settings: dict[str, Any], tmp_path: Path) -> None:
    """Of all clients, and of cohorts that change and are all looked at."""
    reported = estimate(config(**settings))
    _, training, evaluation = outcome(tmp_path / "run", **settings)
    assert counted_json(reported.training.counters) == training
    assert counted_json(reported.evaluation.counters) == evaluation
    cost = execute(config(**settings), tmp_path / "again")["cost"]
    assert reported.training.message_bytes_up == pytest.approx(
        cost["totals"]["message_bytes_up"], rel=0.01
    )


def test_the_tables_of_estimate_and_run_have_a_row_or_line_for_each(tmp_path: Path) -> None:
    options = ("episodes", "--strategy", "maml", "--set", "evaluation.every=2")
    done = fedmaml("estimate", *options, "--counted", cwd=tmp_path)
    reported = " ".join(done.stdout.split())
    for line in (
        "environment_steps (support + query): 600 + 960 in 3 rounds, 200 + 320 a round, 50 + 80 a "
        "client's, 240 + 400 in evaluation",
        "measurements (support + query): 30 + 48 in 3 rounds, 10 + 16 a round, 2.5 + 4 a client's, "
        "12 + 20 in evaluation",
    ):
        assert line in reported
    done = fedmaml("run", *options, "--out", "run", cwd=tmp_path)
    line = (
        "maml: measurements (support + query): 2.5 + 4 of a client in a round, 30 + 48 in training,"
        " 12 + 20 in evaluation"
    )
    assert line in " ".join(done.stdout.split())
    assert line in " ".join(fedmaml("show", "run", cwd=tmp_path).stdout.split())


# --- compared


def test_a_counter_is_a_budget() -> None:
    """FedAvg: 3 rounds x 4 clients x 6 episodes x 20 steps; FOMAML asks two clients a round."""
    planned = plan("episodes", ["fomaml", "maml"], 1, [{"task.more": 0}], None, "environment_steps")
    assert planned.budget.amount == 3 * 4 * (2 + 4) * 20
    assert {name: configs[0].rounds for name, configs in planned.runs.items()} == {
        "local": 0, "fedavg": 3, "fedadam": 3, "fomaml": 6, "maml": 3,
    }  # fmt: skip


def test_an_unknown_counter_is_refused_with_those_that_are_known() -> None:
    known = "allowed: recipes, rounds, bytes, flops, environment_steps, measurements; did you mean"
    with pytest.raises(ConfigurationError, match=f"equal = 'measurement': {known}"):
        plan("episodes", ["maml"], 1, [], None, "measurement")
    with pytest.raises(ConfigurationError, match=r"allowed: recipes, rounds, bytes, flops$"):
        plan("quadratic", ["maml"], 1, [], None, "environment_steps")


def test_a_comparison_on_equal_environment_steps_shows_them_everywhere(tmp_path: Path) -> None:
    done = fedmaml(
        "compare", "episodes", "--strategies", "fomaml", "--seeds", "1", "--out", "out",
        "--equal", "environment_steps", "--set", "task.more=0", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    both = "480 + 960"  # 3 rounds x 4 clients, 6 rounds x 2 clients: 12 x 2 x 20 and 12 x 4 x 20
    assert done.stdout.count(both) == 3  # FedAvg, FedAdam and FOMAML
    assert "What its examples cost, support + query" in " ".join(done.stdout.split())
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "as many rounds as 1,440 environment_steps of support and query examples" in markdown
    assert "| strategy | environment_steps | measurements |" in markdown
    assert markdown.count(f"| {both} | 24 + 48 |") == 3
    lines = (tmp_path / "out" / "comparison.csv").read_text().splitlines()
    rows = {row["strategy"]: row for row in csv.DictReader(lines)}
    for name in ("fedavg", "fomaml"):
        assert float(rows[name]["environment_steps_support"]) == 480
        assert float(rows[name]["environment_steps_query"]) == 960
    assert float(rows["local"]["measurements_query"]) == 0
    assert r"environment\_steps" in (tmp_path / "out" / "comparison.tex").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What the examples cost" in page
    assert "steps of the environment, 20 an episode" in page


# --- what is refused


def test_a_counter_that_fails_at_the_first_client_ends_a_run_before_it_begins() -> None:
    with pytest.raises(UnsupportedProblemError, match="'measurements' raised ValueError"):
        preflight(config(task__broken=0))


def test_a_client_whose_examples_cannot_be_counted_is_left_out(tmp_path: Path) -> None:
    rounds, training, _ = outcome(tmp_path / "run", task__broken=3)
    assert rounds == [units(7, 12)] * 3
    assert training == units(21, 36)
    for record in RunDirectory(tmp_path / "run").rounds():
        (rejection,) = record["rejected"]
        assert (rejection["reason"], rejection["clients"]) == ("RAISED", [3])
        assert rejection["detail"] == (
            "UnsupportedProblemError in counting its examples (its text and place stay in the "
            "node's log)"
        )


def test_a_client_whose_examples_cannot_be_counted_is_not_evaluated(tmp_path: Path) -> None:
    _, _, evaluation = outcome(tmp_path / "run", task__broken=8)
    assert evaluation == units(5 + 5, 8 + 8)
    assert RunDirectory(tmp_path / "run").summary()["clients_evaluated"] == 2


def _served(
    settings: RunConfig, out: Path, app: Callable[[Message, Context], Message]
) -> dict[str, Any]:
    RunDirectory(out).create(settings)
    run_config = to_run_config(settings, out)
    grid = InProcessGrid(app, settings.nodes, run_config)  # type: ignore[arg-type]
    server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))
    summary = RunDirectory(out).summary()
    assert summary is not None
    return summary


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([-1, 3], "units:support:measurements is -1, allowed are whole numbers from 0 to 2^62"),
        ([2**62 + 1, 3], "units:support:measurements is 4611686018427387905, allowed"),
        ([2.5, 3.0], "units:support:measurements is 2.5, allowed"),
        ([3], "units:support:measurements has not one value for each of the clients"),
        (None, "units:support:measurements has not one value for each of the clients"),
    ],
)
def test_a_reply_that_claims_nonsense_or_nothing_is_left_out(
    kind: str, value: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The node hosts clients 0 and 2 of training, 6 and 8 of the test; 1, 3 and 7 are left."""

    def tampered(message: Message, context: Context) -> Message:
        reply = client_app(message=message, context=context)
        if message.metadata.message_type == kind and message.metadata.dst_node_id == 2:
            metrics = reply.content.metric_records["metrics"]
            if value is None:
                del metrics["units:support:measurements"]
            else:
                metrics["units:support:measurements"] = value
            seal(reply.content)
        return reply

    settings = config(nodes=2, rounds=1, evaluation__every=0)
    cost = _served(settings, tmp_path / "run", tampered)["cost"]
    if kind == "train":
        (record,) = RunDirectory(tmp_path / "run").rounds()
        (rejection,) = record["rejected"]
        assert rejection["reason"] == "COST"
        assert said in rejection["detail"]
        assert rejection["clients"] == [0, 2]
        assert cost["totals"]["counters"] == units(3 + 3, 4 + 4)
    else:
        assert f"COST: {said}" in caplog.text
        assert cost["totals"]["counters"] == units(10, 16)
        assert cost["evaluation"]["counters"] == units(3, 4)
