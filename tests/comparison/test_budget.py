"""The budget of a comparison: how long each strategy trains, and which round is evaluated."""

from typing import Any

import pytest

from fedmaml.comparison.planning import plan
from fedmaml.core.errors import ConfigurationError
from fedmaml.estimating import estimate
from fedmaml.strategies import CATALOGUE
from tests.conftest import REGRESSORS

SMALL = {"task.train_clients": 12, "task.test_clients": 4, "clients": 3}


def rounds_of(*strategies: str, **arguments: Any) -> dict[str, int]:
    planned = plan("digits", strategies, 2, [SMALL], **arguments)
    assert all(len({config.rounds for config in seeds}) == 1 for seeds in planned.runs.values())
    return {name: seeds[0].rounds for name, seeds in planned.runs.items()}


def test_by_default_every_strategy_trains_as_its_recipe_says() -> None:
    planned = plan("sinusoid", ["maml"], 1, [])
    assert planned.budget.equal == "recipes"
    assert [seeds[0].rounds for seeds in planned.runs.values()] == [0, 2000, 2000, 2000]


def test_rounds_that_are_given_are_everybodys() -> None:
    assert rounds_of("maml", rounds=7) == {"local": 0, "fedavg": 7, "fedadam": 7, "maml": 7}
    by_setting = plan("digits", ["maml"], 1, [SMALL, {"rounds": 7}])
    assert {name: seeds[0].rounds for name, seeds in by_setting.runs.items()} == {
        "local": 0, "fedavg": 7, "fedadam": 7, "maml": 7,
    }  # fmt: skip
    assert by_setting.budget.equal == "rounds"


def test_equal_rounds_are_those_of_fedavgs_recipe() -> None:
    planned = plan("digits", ["maml", "reptile"], 1, [SMALL], equal="rounds")
    assert planned.budget.amount == 150
    assert [seeds[0].rounds for seeds in planned.runs.values()] == [0, 150, 150, 150, 150]


@pytest.mark.parametrize(("equal", "amount"), [("bytes", "payload_bytes"), ("flops", "flops")])
def test_a_budget_buys_as_many_rounds_as_fit_and_not_one_more(equal: str, amount: str) -> None:
    planned = plan("digits", ["fomaml", "protonet", "meta_sgd"], 2, [SMALL], 40, equal)
    budget = planned.budget.amount
    assert budget == 40 * getattr(estimate(planned.runs["fedavg"][0]).per_round, amount)
    assert planned.runs["local"][0].rounds == 0
    for name in ("fedavg", "fomaml", "protonet", "meta_sgd"):
        config = planned.runs[name][1]
        each = getattr(estimate(config).per_round, amount)
        assert config.rounds * each <= budget < (config.rounds + 1) * each, name
    fomaml, meta_sgd = (planned.runs[name][0].rounds for name in ("fomaml", "meta_sgd"))
    if equal == "bytes":
        assert (fomaml, meta_sgd) == (40, 20)  # alpha travels beside theta: twice the bytes
    else:
        assert fomaml > 40  # docs/costs.md: k s G + q (G + F) < k n G + 2 n F


def test_schedules_follow_the_rounds_that_were_bought() -> None:
    config = plan("digits", ["meta_sgd"], 1, [SMALL], 40, "bytes").runs["meta_sgd"][0]
    assert config.rounds == 20
    outer = config.make_strategy().outer
    assert outer.schedule == "cosine"
    assert outer.rate(20) == pytest.approx(0)  # it has fallen to 0 at the end, as in the recipe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"equal": "byte"}, "equal = 'byte': allowed: recipes, rounds, bytes, flops; did you mean"),
        ({"equal": "recipes", "rounds": 3}, "equal = 'recipes' takes each recipe's rounds, and"),
        (
            {"equal": "flops", "rounds": 1},
            r"equal = 'flops': one round of 'fedadam' takes [\d,]+ operations, and the budget, "
            r"which is what 'fedavg' takes in all its rounds, is [\d,]+; raise --rounds",
        ),
        ({"seeds": 10**7}, "seeds = 10000000: allowed: 1 or more"),
    ],
)
def test_impossible_budgets_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan("digits", ["fedrep"], arguments.pop("seeds", 1), [SMALL], **arguments)


# --- which round is evaluated


def evaluation(scenario: str = "digits", **given: Any) -> dict[str, tuple[str, int]]:
    layer = {key.replace("__", "."): value for key, value in given.items()}
    planned = plan(scenario, ["maml"], 1, [layer], 45)
    found = {name: seeds[0].evaluation for name, seeds in planned.runs.items()}
    return {name: (evaluation.select, evaluation.every) for name, evaluation in found.items()}


def test_validation_clients_choose_the_round_from_about_twenty() -> None:
    assert evaluation() == {
        "local": ("last", 0), "fedavg": ("best", 2), "fedadam": ("best", 2), "maml": ("best", 2),
    }  # fmt: skip


def test_what_is_asked_for_goes_before() -> None:
    assert evaluation(evaluation__select="last")["maml"] == ("last", 0)
    assert evaluation(evaluation__every=9)["maml"] == ("best", 9)
    assert evaluation(evaluation__every=0)["maml"] == ("last", 0)
    assert evaluation(evaluation__select="best", evaluation__every=3)["fedavg"] == ("best", 3)


def test_without_validation_clients_it_is_the_last_round() -> None:
    assert evaluation("quadratic") == dict.fromkeys(
        ("local", "fedavg", "fedadam", "maml"), ("last", 0)
    )
    with pytest.raises(ConfigurationError, match="scenario 'quadratic' has none"):
        evaluation("quadratic", evaluation__select="best")


def test_test_clients_alone_are_compared() -> None:
    with pytest.raises(ConfigurationError, match=r"takes the evaluation.split as 'test'"):
        evaluation(evaluation__split="validation")


def test_every_strategy_can_be_given_an_equal_budget() -> None:
    takes_classes = [name for name in CATALOGUE if name not in REGRESSORS]
    names = [name for name in takes_classes if name not in ("local", "fedavg")]
    assert set(rounds_of(*names, equal="bytes")) == set(takes_classes)
