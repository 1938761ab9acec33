"""Settings of one strategy in a comparison: who gets them, what is refused, what is repeated."""

import shlex

import pytest

from fedmaml.comparison import planning, tuning
from fedmaml.comparison.given import given_to
from fedmaml.comparison.planning import command, plan
from fedmaml.config import load_toml, parse_assignment
from fedmaml.core.errors import ConfigurationError


def planned(*settings: str, rounds: int | None = None, equal: str | None = None):
    layers = [parse_assignment(text) for text in settings]
    return plan("digits", ["maml", "fomaml"], 1, layers, rounds, equal)


def rates(made) -> dict[str, float]:
    return {name: configs[0].options["inner"]["lr"] for name, configs in made.runs.items()}


def test_a_setting_with_a_name_reaches_that_strategy_alone() -> None:
    usual, changed = rates(planned()), rates(planned("maml:inner.lr=.07"))
    assert changed["maml"] == 0.07
    assert {name: rate for name, rate in changed.items() if name != "maml"} == {
        name: rate for name, rate in usual.items() if name != "maml"
    }


@pytest.mark.parametrize("order", [1, -1])
def test_it_wins_over_what_is_set_for_all_in_any_order(order: int) -> None:
    found = rates(planned(*["inner.lr=.5", "maml:inner.lr=.07"][::order]))
    assert found == {"local": 0.5, "fedavg": 0.5, "fedadam": 0.5, "maml": 0.07, "fomaml": 0.5}


def test_a_file_may_set_it_too(tmp_path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('"maml:inner.lr" = 0.07\n["fomaml:inner"]\nsteps = 2\n')
    runs = plan("digits", ["maml", "fomaml"], 1, [load_toml(path)]).runs
    assert runs["maml"][0].options["inner"]["lr"] == 0.07
    assert runs["fomaml"][0].options["inner"]["steps"] == 2
    assert runs["maml"][0].options["inner"]["steps"] == 5


def test_rounds_of_one_strategy_where_each_has_its_own() -> None:
    runs = planned("maml:rounds=7").runs
    assert (runs["maml"][0].rounds, runs["fomaml"][0].rounds) == (7, 150)


def test_the_budget_follows_the_settings_of_fedavg() -> None:
    usual, fewer = (
        planned(*settings, rounds=10, equal="flops").runs["fomaml"][0].rounds
        for settings in ((), ("fedavg:inner.steps=1",))
    )
    assert fewer < usual


@pytest.mark.parametrize(
    ("setting", "options", "message"),
    [
        ("manl:inner.lr=1", {}, "no strategy 'manl'; did you mean 'maml'.*compared: local, fedavg"),
        ("meta_sgd:inner.lr=1", {}, "meta_sgd is not compared; add it with --strategies"),
        ("maml:iner.lr=1", {}, "maml has no setting 'iner.lr'; did you mean 'inner.lr'"),
        ("maml:mu=1", {}, "maml has no setting 'mu'.*it has rounds,"),
        ("maml:task.shots=1", {}, r"task.shots must be the same for all .* task.shots=1, or"),
        ("maml:seed=1", {}, "seed must be the same for all strategies"),
        ("maml:evaluation.every=1", {}, "evaluation.every must be the same for all"),
        ("maml:=1", {}, "maml has no setting ''"),
        (":inner.lr=1", {}, "there is no strategy ''"),
        ("maml:inner.lr=-1", {}, "inner.lr = -1: .*greater"),
        ("local:rounds=3", {}, "has no effect: local has no rounds"),
        ("maml:rounds=3", {"rounds": 5}, "with equal = 'rounds' the budget determines"),
        ("fedavg:rounds=3", {"equal": "bytes"}, "with equal = 'bytes' the budget determines"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(setting, options, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        planned(setting, **options)


def test_it_is_not_tuned_and_others_are() -> None:
    made = planned("maml:inner.lr=.07")
    space = {
        name: tuning.search_space(configs[0], made.budget) for name, configs in made.runs.items()
    }
    assert "inner.lr" not in space["maml"]
    assert "inner.steps" in space["maml"]
    assert "inner.lr" in space["fomaml"]


def test_the_recorded_command_makes_the_same_plan() -> None:
    layers = [parse_assignment(text) for text in ("maml:inner.lr=.07", "inner.steps=3")]
    words = shlex.split(command("digits", ["maml"], 1, layers, None, None, None))
    assert "maml:inner.lr=0.07" in words
    again = [parse_assignment(words[i + 1]) for i, word in enumerate(words) if word == "--set"]
    one, other = (planning.plan("digits", ["maml"], 1, each).runs for each in (layers, again))
    assert one == other


def test_a_single_run_says_that_it_has_one_strategy() -> None:
    from fedmaml.config import resolve

    with pytest.raises(ConfigurationError, match="NAME:KEY sets one strategy of a comparison"):
        resolve({"scenario": "digits", "maml:inner.lr": 0.1})


def test_numbers_without_a_zero_are_numbers() -> None:
    assert parse_assignment("a=.2") == {"a": 0.2}
    assert parse_assignment("a=-1.") == {"a": -1.0}
    assert parse_assignment("a=1.e-3") == {"a": 0.001}
    assert parse_assignment("a=.") == {"a": "."}
    assert parse_assignment("a=./data") == {"a": "./data"}


def test_a_strategy_is_given_what_it_knows() -> None:
    given = {"inner.lr": 1, "mu": 2, "maml:inner.lr": 3, "fomaml:inner.lr": 4}
    assert given_to(given, "digits", "maml") == {"inner.lr": 3}
    assert given_to(given, "digits", "fedprox") == {"inner.lr": 1, "mu": 2}


def test_recipes_with_different_tasks_are_refused_by_the_keys_that_differ() -> None:
    with pytest.raises(ConfigurationError, match=r"\(task\.train_clients = 40 and 10000, task\.ra"):
        plan("half_circle", ["maml", "pearl"], 1, [])
    same = {"task.train_clients": 40, "task.radius": 0.3, "task.episodes": 2}
    tasks = [runs[0].task for runs in plan("half_circle", ["pearl"], 1, [same]).runs.values()]
    assert all(task == tasks[0] for task in tasks)
