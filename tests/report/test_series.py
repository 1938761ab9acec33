"""The numbers behind the figures, from runs small enough to check by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmaml.comparison.verdicts import Metric
from fedmaml.report import adaptation, series
from fedmaml.report.figures import draw
from fedmaml.report.inline import finished
from fedmaml.report.reading import Material, Run


def run(
    rounds: list[dict[str, Any]], clients: list[Any] = (), metric: dict[str, Any] | None = None
) -> Run:
    totals = {"payload_bytes_down": 3, "payload_bytes_up": 1, "flops": 10, "updates": 1,
              "updates_measured": 1}  # fmt: skip
    summary = {
        "rounds": len(rounds),
        "metric": metric or {"after": None},
        "cost": {"totals": totals},
        "evaluated_split": "test",
    }
    rows = [{"client": number, "mse:after": value} for number, value in enumerate(clients)]
    return Run(Path("x"), {"inner": {"steps": 5}}, summary, rounds, rows)


def record(loss: float | None, down: int = 3, up: int = 1, **evaluation: Any) -> dict[str, Any]:
    cost = {"payload_bytes_down": down, "payload_bytes_up": up, "flops": 10 * up,
            "updates": 1, "updates_measured": 1}  # fmt: skip
    found = {"metrics": {} if loss is None else {"loss_after": loss}, "cost": cost}
    return found | ({"evaluation": evaluation} if evaluation else {})


def material(**runs: tuple[Run, ...]) -> Material:
    return Material("sinusoid", Metric("mse", "1", "lower"), runs, None, "")


def test_curves_are_means_over_seeds_at_what_was_spent_until_then() -> None:
    one = run([record(4.0), record(2.0, up=3)])
    other = run([record(6.0), record(4.0, up=5)])
    made = material(maml=(one, other))
    rounds, sent, flops = (series.training_loss(made, scale)["maml"] for scale in series.SCALES)
    assert rounds.x.tolist() == [1, 2]
    assert sent.x.tolist() == [4, (4 + 6 + 4 + 8) / 2]
    assert flops.x.tolist() == [10, (10 + 30 + 10 + 50) / 2]
    for curve in (rounds, sent, flops):
        assert curve.mean.tolist() == [5, 3]
        assert curve.low.tolist() == [4, 2]
        assert curve.high.tolist() == [6, 4]


def test_validation_is_drawn_at_the_rounds_that_evaluated_and_divergence_is_a_gap() -> None:
    name = "mse:after"
    rounds = [record(1.0), record(1.0, **{name: 0.5}), record(1.0), record(1.0, **{name: None})]
    curve = series.validation(material(maml=(run(rounds),)), "rounds")["maml"]
    assert curve.x.tolist() == [2, 4]
    np.testing.assert_equal(curve.mean, [0.5, np.nan])


def test_a_round_without_updates_is_a_gap_in_one_seed_and_keeps_the_others_in_place() -> None:
    made = material(maml=(run([record(1.0), record(None)]), run([record(3.0), record(3.0)])))
    curve = series.training_loss(made, "rounds")["maml"]
    np.testing.assert_equal(curve.mean, [2.0, np.nan])


def test_many_rounds_are_averaged_to_few_points_that_keep_the_mean() -> None:
    losses = np.random.default_rng(0).normal(size=1200)
    made = material(maml=(run([record(float(loss)) for loss in losses]),))
    curve = series.training_loss(made, "rounds")["maml"]
    assert len(curve.x) == 120
    assert curve.mean.mean() == pytest.approx(losses.mean())  # 120 parts of 10
    assert curve.x[0] == pytest.approx(5.5)


def test_no_curve_over_operations_unless_every_client_reported_them() -> None:
    silent = record(1.0)
    silent["cost"]["updates_measured"] = 0
    made = material(maml=(run([silent, record(0.5)]),))
    assert list(series.training_loss(made, "rounds")) == ["maml"]
    assert list(series.training_loss(made, "bytes")) == ["maml"]
    assert series.training_loss(made, "flops") == {}


@pytest.mark.parametrize(
    ("better", "expected"), [("higher", ["local", "fomaml", "maml"]), ("lower", ["local"])]
)
def test_front_holds_what_nothing_beats_in_both(better: str, expected: list[str]) -> None:
    points = {
        "maml": (3.0, 0.8), "local": (0.0, 0.4), "fomaml": (2.0, 0.7), "reptile": (2.5, 0.7),
        "lost": (1.0, float("nan")),
    }  # fmt: skip
    assert series.front(points, better) == expected


def test_worst_decile_is_the_mean_of_the_worst_tenth_and_lost_clients_are_counted() -> None:
    values = [*range(1, 21), "diverged", None]  # lower is better, so 19 and 20 are the worst
    spread = series.spreads(material(maml=(run([], values),)))["maml"]
    assert (spread.worst_decile, spread.best, spread.worst) == (19.5, 1, 20)
    assert (spread.mean, spread.median, spread.lost) == (10.5, 10.5, 2)
    assert spread.deviation == pytest.approx(np.std(range(1, 21), ddof=1))


def test_steps_begin_before_adaptation_and_include_the_strategy_s_own() -> None:
    def one(shift: float) -> Run:
        at = {"1": {"mean": 3.0 + shift}, "10": {"mean": 0.5 + shift}, "20": {"mean": None}}
        return run([], metric={"before": 4.0 + shift, "after": 1.0 + shift, "at_steps": at,
                               "at_shots": {"2": {"mean": 2.0 + shift}}})  # fmt: skip

    made = material(maml=(one(0.0), one(0.2)))
    steps, shots = adaptation.at_steps(made)["maml"], adaptation.at_shots(made)["maml"]
    assert steps.x.tolist() == [0, 1, 5, 10]  # where a seed diverged there is no mean
    assert steps.mean.tolist() == pytest.approx([4.1, 3.1, 1.1, 0.6])
    assert shots.x.tolist() == [0, 2, np.inf]
    assert shots.mean.tolist() == pytest.approx([4.1, 2.1, 1.1])


def test_letters_of_a_logarithmic_axis_are_plain_numbers() -> None:
    falling = [record(10.0 ** (1 - number / 8)) for number in range(25)]
    drawn = {one.name: one for one in draw(material(fomaml=(run(falling),)))}
    letters = finished(drawn["loss-rounds"]).svg
    assert ">0.1<" in letters
    assert "mathdefault" not in letters
