"""One seed is one training run of each strategy: it is described, and nothing is concluded."""

import inspect
from pathlib import Path

import numpy as np
import pytest

from fedmaml.cli.demo import demo
from fedmaml.comparison.comparing import compare, run_all
from fedmaml.comparison.planning import plan
from fedmaml.comparison.tables import as_markdown
from fedmaml.comparison.verdicts import Metric, compare_pairs, evaluate

ACCURACY = Metric("accuracy", "1", "higher")


def values(shift: float, seeds: int, clients: int = 40) -> list[dict[int, float]]:
    """Return values that another strategy exceeds by a shift, give or take little."""
    rng = np.random.default_rng(1)
    table = 0.7 + shift + 0.01 * rng.normal(size=(seeds, clients))
    return [dict(enumerate(seed)) for seed in table.tolist()]


def rows(seeds: int, clients: int = 40):
    both = {"fedavg": values(0.0, seeds, clients), "maml": values(0.3, seeds, clients)}
    both["maml"][0][0] += 0.005
    return evaluate(ACCURACY, dict.fromkeys(both, 10), both, both)


def test_a_gain_at_every_client_of_one_training_is_no_evidence() -> None:
    (_, row) = rows(seeds=1)
    assert row.p_clients < 1e-6
    assert (row.p_seeds, row.p_holm, row.verdict) == (None, None, "one seed")
    assert row.sentence.startswith(
        "In this one training run MAML differs from fine-tuned FedAvg: accuracy +0.300, 95 % "
        "interval over test clients +0."
    )
    assert row.sentence.endswith("is not known; ask with --seeds 5.")
    (_, again) = rows(seeds=5)
    assert again.verdict == "better"


def test_pairs_of_one_seed_conclude_nothing_either() -> None:
    three = {"fedavg": values(0, 1), "a": values(0.1, 1), "b": values(0.3, 1)}
    assert [pair.verdict for pair in compare_pairs(ACCURACY, three)] == ["one seed"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_two_test_clients_have_no_interval_and_the_sentence_says_why(seeds: int) -> None:
    (_, row) = rows(seeds, clients=2)
    assert row.difference == pytest.approx(0.3, abs=0.01)
    assert row.difference_ci95 is None
    assert row.verdict == ("one seed" if seeds == 1 else "not distinguishable")
    assert "no interval: 2 test clients, 3 are needed" in row.sentence


def test_one_test_client_of_each_of_five_seeds_has_an_interval_over_seeds() -> None:
    (_, row) = rows(5, clients=1)
    low, high = row.difference_ci95
    assert low < row.difference < high
    assert "95 % interval over seeds alone +0." in row.sentence


def test_the_first_line_and_a_note_speak_of_this_one_run(tmp_path: Path) -> None:
    small = {"task.test_clients": 6, "task.train_clients": 20}
    planned = plan("digits", ["fomaml"], 1, [small], 1)
    run_all(planned, tmp_path)
    made = compare(planned, tmp_path)
    assert made.headline.startswith("In this one training run ")
    assert "one seed is no evidence that another would agree." in made.headline
    assert "Significantly" not in as_markdown(made)
    asks = "To ask with five: fedmaml compare digits --strategies fomaml --seeds 5"
    assert any(asks in note for note in made.notes)
    assert {row.verdict for row in made.rows} == {"reference", "one seed"}


def test_the_demo_says_how_to_ask_with_five_seeds() -> None:
    source = Path(inspect.getfile(demo)).read_text()
    assert "fedmaml compare digits --strategies fomaml --seeds 5" in source
