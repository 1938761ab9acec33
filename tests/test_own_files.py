"""Scenarios and strategies in files of one's own: from every command, in every process."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmaml.api.naming import places, scenario_named, strategy_named
from fedmaml.cli.options import settings_of_options
from fedmaml.comparison.conclusions import configuration
from fedmaml.comparison.planning import plan
from fedmaml.config import OWN_CODE, from_run_config, load_toml, resolve, to_run_config
from fedmaml.core.errors import ConfigurationError, UnsupportedProblemError
from fedmaml.core.plugins import own_class
from fedmaml.running import execute
from fedmaml.simulations.scenario import Scenario
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES
from fedmaml.verification import check_all
from tests.conftest import ROOT

WARDS = '''
"""Lines whose slopes are the wards' own."""

from fedmaml.core import seeding
from fedmaml.core.learner import Problem
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import RMSE
from fedmaml.core.networks import MLP
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup
from fedmaml.simulations.scenario import Scenario
from neighbour import SHARE


@settings
class Wards(Scenario):
    about = "lines"
    recipes = {"*": {"rounds": 2}}
    seed: int = 0

    def problem(self):
        return Problem(lambda: MLP((1, 8, 1)), half_squared_error, (RMSE,))

    def clients(self):
        return {"train": range(8), "validation": range(8, 10), "test": range(10, 14)}

    def statistics(self, client):
        return {}

    def tasks(self, split, clients, round, shared_statistics):
        draw = seeding.key(self.seed, "x", split, round if split == "train" else 0)
        x = seeding.normal(draw, clients, 10, 1)
        y = (SHARE * seeding.normal(seeding.key(self.seed, "slope"), clients, 1) * x[..., 0])
        return [TaskGroup(tuple(clients), Task(Batch(x[:, :5], y[:, :5]),
                                               Batch(x[:, 5:], y[:, 5:])))]
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "wards.py").write_text(WARDS)
    (tmp_path / "neighbour.py").write_text("SHARE = 2.0\n")
    shutil.copy(ROOT / "fedmaml" / "strategies" / "anil.py", tmp_path / "own_anil.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    yield tmp_path
    for catalogue in (SCENARIOS, STRATEGIES):
        for name in ("wards", "own_anil", "twice", "still", "silent", "w"):
            if name in catalogue:
                del catalogue[name]


def given(**options: Any) -> dict[str, Any]:
    return settings_of_options(None, scenario="wards.py", strategy="own_anil.py", **options)


def test_a_run_takes_both_from_files_and_its_configuration_repeats_it(folder: Path) -> None:
    config = resolve(given(engine="loop"))
    assert (config.scenario, config.strategy) == ("wards", "own_anil")
    first = execute(config, folder / "first")
    again = resolve(load_toml(folder / "first" / "config.toml"))
    assert again == config
    shared = execute(resolve(given(engine="loop", workers=2, client_batch=3)), folder / "workers")
    assert shared["theta_sha256"] == first["theta_sha256"]
    assert shared["workers"] == 2


def test_a_comparison_names_them_by_their_files(folder: Path) -> None:
    scenario = scenario_named("wards.py")
    named = [strategy_named(name) for name in ("own_anil.py", "maml")]
    names = [one.name for one in named]
    assert (scenario.name, names) == ("wards", ["own_anil", "maml"])
    layers = [places(scenario, named), {"own_anil:inner.lr": 0.3}]
    planned = plan(scenario.name, names, 1, layers, 1)
    assert list(planned.runs) == ["local", "fedavg", "fedadam", "own_anil", "maml"]
    (config,) = planned.runs["own_anil"]
    assert config.strategy_from == str(folder / "own_anil.py")
    assert config.options["inner"]["lr"] == 0.3
    assert planned.runs["maml"][0].strategy_from == ""


def test_a_folder_of_such_a_run_is_read_in_a_process_that_does_not_know_it(folder: Path) -> None:
    execute(resolve(given(rounds=1)), folder / "run")
    for catalogue, name in ((SCENARIOS, "wards"), (STRATEGIES, "own_anil")):
        del catalogue[name]
    assert configuration(folder / "run")["strategy"] == "own_anil"
    assert "own_anil" in STRATEGIES


def test_a_strategy_in_a_file_is_checked_against_finite_differences(folder: Path) -> None:
    results = check_all("own_anil.py")
    assert {result.strategy for result in results} == {"own_anil"}
    assert all(result.relative_error < 1e-6 for result in results)


def test_a_machine_of_others_runs_only_what_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = to_run_config(resolve(given()), folder / "out")
    monkeypatch.setenv(OWN_CODE, "1")
    assert from_run_config(sent).scenario == "wards"
    monkeypatch.delenv(OWN_CODE)
    with pytest.raises(ConfigurationError, match="this machine runs only what is installed on it"):
        from_run_config(sent)


@pytest.mark.parametrize(
    ("left", "engine", "named"),
    [
        ('kernel=Kernel("exact"), adapts=Adapts()', "auto", "delete kernel="),
        ("adapts=Adapts()", "auto", "delete adapts="),
        ('kernel=Kernel("exact"), adapts=Adapts()', "loop", ""),
        ("", "auto", ""),
    ],
)
def test_a_copy_with_other_verbs_may_not_declare_the_kernels_of_its_original(
    folder: Path, left: str, engine: str, named: str
) -> None:
    text = (ROOT / "fedmaml" / "strategies" / "maml.py").read_text()
    text = text.replace("class MAML", "class Still").replace(
        'kernel=Kernel("exact"), adapts=Adapts()', left
    )
    same = text.replace("self.inner.run(learner.loss, meta", "(lambda *given: given[1])(0, meta")
    assert same != text
    path = folder / "still.py"
    path.write_text(same)
    wanted = {"scenario": "sinusoid", "strategy": "still", "strategy_from": str(path)}
    config = resolve({**wanted, "engine": engine, "rounds": 1, "clients": 2})
    if named:
        with pytest.raises(ConfigurationError, match=named):
            execute(config, folder / "run")
    else:
        execute(config, folder / "run")


def test_the_server_reports_test_clients_that_train(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaky = WARDS.replace("range(10, 14)", "range(6, 14)")
    assert leaky != WARDS
    (folder / "wards.py").write_text(leaky)
    with caplog.at_level("WARNING", "fedmaml"):
        execute(resolve(given(engine="loop")), folder / "leaky")
    assert "audit: test-clients-in-training (leak): see audit in" in caplog.text


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("client_update = meta_update", "def client_update(self, *given):\n        pass",
         "client_update returned NoneType, not a ClientUpdate"),
        ("client_update = meta_update",
         "def client_update(self, *given):\n        update = meta_update(self, *given)\n        "
         "return update._replace(weight=update.weight.float())", "a float64 scalar"),
        ("client_update = meta_update",
         "def client_update(self, *given):\n        update = meta_update(self, *given)\n        "
         "theta = dict(reversed(list(update.update['theta'].items())))\n        "
         "return update._replace(update={'theta': theta})", "that has theta/.* where theta/"),
        ("client_update = meta_update",
         "def client_update(self, *given):\n        update = meta_update(self, *given)\n        "
         "return update._replace(metrics={'mine': update.weight})", "returned the metric 'mine'"),
        ("server_update = outer_step", "def server_update(self, state, update):\n        pass",
         "server_update returned NoneType, not a ServerState"),
        ("build = whole_network", "def build(self, problem, generator):\n        pass",
         "build returned NoneType, not an Initialised"),
        ("return partial(", "partial(", "adapt returned NoneType, not a predictor"),
        ('"initialisation"', '"initialization"', "has family 'initialization'; allowed: baseline"),
        ('kernel=Kernel("exact")', "kernel=True", "has kernel = True; it must be a Kernel"),
        ('Kernel("exact")', 'Kernel("exact", steps="iner")', "no setting 'iner', which its facts"),
        ("    build = whole_network", "    built = whole_network", r"class Silent lacks build\(\)"),
    ],
)  # fmt: skip
def test_a_verb_that_lacks_or_returns_nothing_is_named(
    folder: Path, right: str, wrong: str, message: str
) -> None:
    text = (ROOT / "fedmaml" / "strategies" / "maml.py").read_text()
    text = text.replace("class MAML", "class Silent")
    assert right in text
    text = text.replace(right, wrong)
    (folder / "silent.py").write_text(text)
    wanted = {"strategy": "silent", "strategy_from": str(folder / "silent.py")}
    with pytest.raises(ConfigurationError, match=message):
        execute(resolve({"scenario": "sinusoid", "rounds": 1, **wanted}), folder / "run")


def test_an_installed_module_needs_no_file(folder: Path) -> None:
    places = {
        "strategy": "twice",
        "strategy_from": "tests.outside.recurrent_policy:RecurrentPolicy",
    }
    config = resolve({"scenario": "digits", "rounds": 1}, places)
    assert type(config.make_strategy()).__name__ == "RecurrentPolicy"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("import nothing_like_this", "w.py", r"ModuleNotFoundError.*\(w\.py, line 1"),
        ("x = 1", "w.py", r"there is no class that derives from .*Scenario$"),
        ("class A:\n    pass", "w.py:A", r"w\.py:A: there is no class that derives from"),
        ("def (", "w.py", r"w\.py cannot be imported: SyntaxError.*\(w\.py, line 1\)$"),
        (f"{WARDS}\n\nclass Other(Wards):\n    pass", "w.py",
         r"several classes, Wards, Other; say which, e\.g\. \S*w\.py:Wards"),
    ],
)  # fmt: skip
def test_errors_say_file_and_line(folder: Path, text: str, place: str, message: str) -> None:
    (folder / "w.py").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        own_class(str(folder / place), Scenario)


WRONG_SCENARIOS = [
    ("def clients(self)", "def klients(self)", r"w\.py: class Wards lacks clients\(\)"),
    ("@settings\n", "", r"w\.py: put @settings above class Wards"),
    ("    seed: int = 0\n", "    kind: int = 0\n", "has no field seed"),
    ('"rounds": 2', '"rouns": 2', r"recipe '\*' .* unknown key 'rouns'; did you mean 'rounds'"),
    ('"*": {"rounds": 2}', '"mamls": {"rounds": 2}', "there is no 'mamls'; did you mean 'maml'"),
    ('"*": {"rounds": 2}', '"family:memory": {}', "there is no 'family:memory'; did you mean"),
    (
        "return Problem(",
        "Problem(",
        r"problem\(\) of the scenario returned NoneType: return Problem",
    ),
    ("range(8),", "range(0),", "'w' has no training clients"),
    (
        "range(8),",
        "list(range(8)),",
        r"clients\(\) of the scenario returned dict: 'train' is list; return a range",
    ),
    (
        "return [TaskGroup",
        "return len([TaskGroup",
        r"tasks\(\) of the scenario returned int: return a list",
    ),
    (
        "tuple(clients), Task",
        "tuple(clients[:-1]), Task",
        r"x of support of shape \(2, 5, 1\) for 1 clients",
    ),
    ("range(8),", "range(0, 16, 2),", r"'train' is range\(0, 16, 2\); return a range of numbers"),
    ("range(10, 14)", "range(10, 10)", "has no test clients, so there is nothing to evaluate"),
    ('{"rounds": 2}', "3", r"recipes of scenario 'w' must be settings by dotted key"),
    ('"*": {"rounds": 2}', '"MAML": {}', "there is no 'MAML'; did you mean 'maml'"),
    ("return {}", "return {'a': 1.0}", r"statistics\(\) .* returned dict: return float64 vectors"),
    (
        "    def tasks",
        "    def references(self):\n        return None\n\n    def tasks",
        r"references\(\) of the scenario returned NoneType: return a tuple of Reference",
    ),
    (
        "    def tasks",
        "    def figures(self):\n        return 'gap'\n\n    def tasks",
        r"figures\(\) of the scenario returned str: return a tuple of Figure",
    ),
    (
        "    def tasks",
        "    def groups(self, client):\n        return None\n\n    def tasks",
        r"groups\(\) of the scenario returned NoneType: return names by label",
    ),
    (
        "    def tasks",
        "    def left_out(self):\n        return ['ward 3']\n\n    def tasks",
        r"left_out\(\) of the scenario returned list of str: return reasons by client",
    ),
    (
        "    def tasks",
        "    def left_out(self):\n        return {3: 'no rows'}\n\n    def tasks",
        r"left_out\(\) of the scenario returned \{3: 'no rows'\}: return reasons by client",
    ),
    (
        "    def tasks",
        "    def groups(self, client):\n        return {'ward': client % 3}\n\n    def tasks",
        r"groups\(10\) of the scenario returned \{'ward': 1\}: labels and names are str",
    ),
    ('    about = "lines"', '    about = "lines"\n    caveats = "One."', "a tuple of sentences"),
    ('    about = "lines"', '    about = "lines"\n    caveats = (1,)', "a tuple of sentences"),
    (
        "    def tasks",
        "    def left_out(self):\n        return {'a': None}\n\n    def tasks",
        r"left_out\(\) of the scenario returned \{'a': None\}: return reasons by client",
    ),
    ("lambda: MLP((1, 8, 1))", "MLP((1, 8, 1))", "returned MLP: network must make the network"),
    ("lambda: MLP((1, 8, 1))", "lambda: None", "made NoneType: it must be a function"),
    (
        "Batch(x[:, :5], y[:, :5])",
        "Batch(x[:, :5].long(), y[:, :5])",
        "x of support is torch.int64, which only embeddings take",
    ),
    ("seed: int = 0", "seed: str = 0", "has a seed that is no int but .*str.*write seed: int = 0"),
    ("(RMSE,)", "RMSE", "returned Metric: metrics must be a tuple of Metric"),
    ("half_squared_error, (", "None, (", "returned NoneType: loss must be a function"),
    (
        "Batch(x[:, :5], y[:, :5])",
        "Batch(x[:, :5].numpy(), y[:, :5])",
        r"tasks\(\) of the scenario returned ndarray: x of support",
    ),
    (
        "Batch(x[:, :5], y[:, :5])",
        "Batch(x[0, :5], y[:, :5])",
        r"of shape \(5, 1\) for \d+ clients",
    ),
    ("Batch(x[:, 5:], y[:, 5:])", "Batch(x[:, 10:], y[:, 10:])", "a query without examples"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), WRONG_SCENARIOS)
def test_a_scenario_that_is_not_whole_is_refused_before_it_runs(
    folder: Path, right: str, wrong: str, message: str
) -> None:
    text = WARDS.replace(right, wrong, 1)
    if "len(" in wrong:
        text = text.replace("y[:, 5:])))]", "y[:, 5:])))])")
    (folder / "w.py").write_text(text)
    with pytest.raises((ConfigurationError, UnsupportedProblemError), match=message):
        execute(resolve(settings_of_options(None, scenario="w.py")), folder / "run")
    assert not (folder / "run").exists()


def test_a_recipe_may_name_a_strategy_that_is_in_another_file(folder: Path) -> None:
    text = WARDS.replace('"*": {', '"own_anil": {"inner.lr": 0.3}, "*": {')
    (folder / "wards.py").write_text(text)
    assert resolve(given()).options["inner"]["lr"] == 0.3
    resolve(settings_of_options(None, scenario="wards.py"))


def test_a_class_that_only_derives_from_a_finished_one_needs_no_decorator(folder: Path) -> None:
    text = "from fedmaml.strategies.maml import MAML\n\n\nclass Own(MAML):\n    pass\n"
    (folder / "own.py").write_text(text)
    assert own_class(str(folder / "own.py"), STRATEGIES.base()).__name__ == "Own"
    (folder / "own.py").write_text(text.replace("pass", "more: float = 1.0"))
    with pytest.raises(ConfigurationError, match="put @settings above class Own"):
        own_class(str(folder / "own.py"), STRATEGIES.base())


def test_a_missing_file_and_a_name_that_is_taken_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no file .*/nothing\.py: give the path"):
        settings_of_options(None, scenario="nothing.py")
    shutil.copy("wards.py", "digits.py")
    with pytest.raises(ConfigurationError, match=r"would be called 'digits', and there is one"):
        resolve(settings_of_options(None, scenario="digits.py"))
