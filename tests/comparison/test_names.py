"""Names in sentences and figures, and the headline's size of the effect."""

import dataclasses

import pytest

from fedmaml.comparison.headline import headline
from fedmaml.comparison.names import display, listed, metric_name
from fedmaml.comparison.verdicts import Metric, Row, Verdict
from fedmaml.strategies import CATALOGUE, MAML

RMSE = Metric("rmse", "K", "lower")
BASELINES = ("local", "fedavg")


def row(name: str, difference: float | None, verdict: Verdict) -> Row:
    interval = None if difference is None else (difference - 0.1, difference + 0.1)
    return Row(name, 1, 1.0, 1.0, difference, interval, None, None, None, verdict, "")


def said(*rows: Row) -> str:
    return headline(RMSE, [row("fedavg", None, "reference"), *rows], (), (), BASELINES)


def test_strategies_have_the_names_of_papers() -> None:
    assert [display(name) for name in ("maml", "meta_sgd", "fedavg")] == [
        "MAML", "Meta-SGD", "FedAvg",
    ]  # fmt: skip
    assert display("nearest neighbour") == "nearest neighbour"
    for name in CATALOGUE:
        assert display(name) == CATALOGUE[name].facts.label
    assert len({display(name) for name in CATALOGUE}) == len(CATALOGUE)


def test_two_of_one_label_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    own = type("Own", (MAML,), {"facts": dataclasses.replace(MAML.facts)})
    CATALOGUE["mine"] = own
    try:
        assert display("mine") == "MAML (mine)"
        assert display("maml") == "MAML (maml)"
        assert display("fomaml") == "FOMAML"
    finally:
        del CATALOGUE["mine"]
    assert display("maml") == "MAML"


def test_the_headline_says_by_how_much_the_best_first() -> None:
    two = said(row("fomaml", -0.2, "better"), row("maml", -0.5, "better"))
    assert two == (
        "Significantly better than fine-tuned FedAvg: MAML (RMSE -0.500 K), FOMAML (-0.200 K)."
    )
    none = said(row("fomaml", 0.3, "worse"), row("maml", -0.05, "not distinguishable"))
    assert none == (
        "No meta-learning strategy is significantly better than fine-tuned FedAvg. The best is "
        "MAML, RMSE -0.050 K (95 % interval -0.150 to +0.050)."
    )
    one = said(row("maml", -0.5, "one seed"))
    assert one.startswith(
        "In this one training run ahead of fine-tuned FedAvg: MAML (RMSE -0.500 K); one seed"
    )


def test_lists_and_metrics_are_readable() -> None:
    assert listed(["A"]) == "A"
    assert listed(["A", "B", "C"]) == "A, B and C"
    assert metric_name("macro_f1") == "macro F1"
