"""What holds for the project as a whole: floors, public names, settings, and what is private."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import fedmaml
from fedmaml import config, flower_internals
from fedmaml.computing.engines import ENGINES
from fedmaml.config import settings
from fedmaml.simulations.backends import BACKENDS, module_of
from fedmaml.simulations.scenario import Scenario
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES
from fedmaml.strategies import MetaStrategy

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fedmaml"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = sorted(info.name for info in pkgutil.walk_packages(fedmaml.__path__, "fedmaml."))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

DEFAULTS = {
    "scenario": "digits", "strategy": "fomaml", "rounds": 150, "backend": "flower-simulation",
}  # fmt: skip

PUBLIC_FLOWER = ("flwr.app", "flwr.serverapp", "flwr.clientapp", "flwr.simulation")
PRIVATE_FLOWER = (
    "flwr.supercore",
    "flwr.proto",
    "flwr.common",
    "flwr.server",
    "flwr.superlink",
)


def imports(source: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def calls(source: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the dotted name of what is called."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# --- floors -----------------------------------------------------------------------------------


def test_imports_point_down() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_module_can_be_imported() -> None:
    for name in MODULES:
        importlib.import_module(name)


def test_the_mathematics_does_not_load_flower() -> None:
    script = (
        "import sys, fedmaml.core.learner, fedmaml.strategies, fedmaml.simulations.scenarios;"
        "sys.exit(bool({'flwr', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


# --- private Flower names ---------------------------------------------------------------------


def test_private_flower_names_are_in_one_module() -> None:
    for source in SOURCES:
        names = [name for name in imports(source) if below(name, ("flwr",))]
        if source.name == "flower_internals.py":
            assert any(below(name, PRIVATE_FLOWER) for name in names)
            continue
        for name in names:
            assert below(name, PUBLIC_FLOWER), f"{source}: {name}"


def test_this_test_would_see_a_private_name(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from flwr.server.grid import Grid\n    import flwr.proto\n")
    assert list(imports(file)) == ["flwr.server.grid.Grid", "flwr.proto"]
    assert all(below(name, PRIVATE_FLOWER) for name in imports(file))
    assert not below("flwr.serverapp.Grid", PRIVATE_FLOWER)


def test_flower_internals_names_what_it_offers() -> None:
    for name in flower_internals.__all__:
        assert hasattr(flower_internals, name)


def test_this_process_can_become_a_server_and_write_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flwr.app import Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):  # put back after the test
        monkeypatch.setattr(TaskIdentity, name, None)
    flower_internals.become_server(7)
    message = Message(RecordDict(), dst_node_id=3, message_type="train")
    assert message.metadata.run_id == 7
    assert message.metadata.src_node_id == flower_internals.SERVER_NODE_ID
    assert message.metadata.dst_node_id == 3

    flower_internals.set_message_id(message, "a-name")
    assert message.metadata.message_id == "a-name"
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "a-name"
    assert reply.metadata.dst_node_id == flower_internals.SERVER_NODE_ID


def test_the_bytes_of_a_message_are_those_of_its_parts() -> None:
    """Flower offers no public count; the two private names must go on meaning what they mean."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

    flower_internals.become_server(7)
    sizes = []
    for entries in (1000, 2000):
        values = np.arange(entries, dtype=np.float32)  # chunks that are equal are sent once
        content = RecordDict(
            {"arrays": ArrayRecord({"w": Array(values)}), "config": ConfigRecord({"round": 1})}
        )
        message = Message(content, dst_node_id=3, message_type="train")
        sizes.append(flower_internals.message_bytes(message))
        assert message.content.array_records["arrays"]["w"].numpy().tolist() == values.tolist()
    # Envelopes of about a kilobyte do not grow with the array, beyond a few digits of its shape.
    assert 0 < sizes[0] - 4000 < 1500
    assert abs(sizes[1] - sizes[0] - 4000) < 16
    error = Message(Error(2, "why"), reply_to=message)
    assert 0 < flower_internals.message_bytes(error) < 300


def test_flowers_error_codes_are_those_we_name() -> None:
    from flwr.common.constant import ErrorCode

    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == flower_internals.CLIENT_APP_RAISED
    assert set(flower_internals.UNAVAILABLE) == {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
    }


def test_telemetry_and_update_checks_are_off_once_fedmaml_runs() -> None:
    script = (
        "import os; [os.environ.pop(k, None) for k in list(os.environ) if k.startswith('FLWR')];"
        "import fedmaml.server.app, fedmaml.client.app;"
        "import sys;"
        "sys.exit(os.environ['FLWR_TELEMETRY_ENABLED'] != '0'"
        " or os.environ['FLWR_DISABLE_UPDATE_CHECK'] != '1')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert done.returncode == 0


# --- what is never done -----------------------------------------------------------------------


def test_nothing_that_runs_code_from_a_file_is_used() -> None:
    forbidden_modules = ("pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
    forbidden_calls = {"torch.load", "torch.save", "eval", "exec", "np.save", "np.savez"}
    for source in SOURCES:
        assert not [name for name in imports(source) if below(name, forbidden_modules)], source
        for name, call in calls(source):
            assert name not in forbidden_calls, f"{source}:{call.lineno} {name}"
            unsafe = [key for key in call.keywords if key.arg == "allow_pickle"]
            assert all(ast.unparse(key.value) == "False" for key in unsafe), f"{source}: {name}"


def test_no_global_generator_is_drawn_from() -> None:
    for source in SOURCES:
        for name, call in calls(source):
            where = f"{source}:{call.lineno} {name}"
            if name in ("torch.rand", "torch.randn", "torch.randint", "torch.randperm"):
                assert any(key.arg == "generator" for key in call.keywords), where
            if name.startswith("random."):
                # A generator of its own: `random.Random(seed)`, or a method of one.
                assert name.startswith("random.Random"), where
                assert "Random()" not in ast.unparse(call), f"{where}: without a seed"
            if name.startswith(("np.random.", "numpy.random.")):
                assert name.endswith(".default_rng"), where
                assert call.args, f"{where}: without a seed"


def test_public_abstract_classes_are_the_only_ones_that_are_subclassed() -> None:
    """An interface or finished: no strategy or scenario inherits from another."""
    for catalogue, base in ((STRATEGIES, MetaStrategy), (SCENARIOS, Scenario)):
        for cls in catalogue.values():
            assert cls.__bases__ == (base,)
            assert not cls.__abstractmethods__


# --- pyproject and public names ---------------------------------------------------------------


def test_pyproject_declares_the_keys_of_a_flower_run() -> None:
    declared = config.flatten_table(PROJECT["tool"]["flwr"]["app"]["config"])
    assert tuple(declared) == config.FLOWER_KEYS
    assert all(isinstance(value, str | int | float | bool) for value in declared.values())


def test_the_defaults_of_a_flower_run_are_a_run() -> None:
    declared = config.flatten_table(PROJECT["tool"]["flwr"]["app"]["config"])
    run = config.from_run_config(declared)
    assert (run.scenario, run.strategy, run.rounds, run.seed) == ("digits", "fomaml", 150, 0)
    assert run == config.resolve(DEFAULTS)


def test_a_flower_run_takes_the_usual_settings_by_name() -> None:
    declared = config.flatten_table(PROJECT["tool"]["flwr"]["app"]["config"])
    given = {"inner.lr": 0.05, "inner.steps": 2, "outer.lr": 0.5, "clients": 3}
    run = config.from_run_config(declared | given)
    assert run == config.resolve(DEFAULTS | given)


def test_the_flower_components_exist() -> None:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    components = PROJECT["tool"]["flwr"]["app"]["components"]
    for key, kind in (("serverapp", ServerApp), ("clientapp", ClientApp)):
        module, _, name = components[key].partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), kind)
        # Flower reads the file: the component must be a plain assignment.
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        assigned = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert name in assigned


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == fedmaml.__version__


def test_the_command_line_exists() -> None:
    module, _, name = PROJECT["project"]["scripts"]["fedmaml"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", MODULES)
def test_all_lists_names_that_exist_once(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert len(public) == len(set(public))
    for item in public:
        assert hasattr(module, item), item


@pytest.mark.parametrize(
    ("package", "catalogue"),
    [("fedmaml.strategies", STRATEGIES), ("fedmaml.simulations.scenarios", SCENARIOS)],
)
def test_catalogues_and_their_packages_offer_the_same(package: str, catalogue) -> None:
    public = set(importlib.import_module(package).__all__)
    assert {cls.__name__ for cls in catalogue.values()} <= public
    files = {info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)}
    assert files - {"base", "comparing", "latents", "parts", "prelude"} == set(catalogue)


def test_back_ends_and_engines_are_named_in_one_place_each() -> None:
    assert get_args(settings.BackendName) == tuple(BACKENDS)
    assert get_args(settings.EngineName) == ("auto", *ENGINES)
    for name in BACKENDS:
        assert callable(importlib.import_module(module_of(name)).run)
        written = [source for source in SOURCES if f'"{name}": ' in source.read_text()]
        assert [path.parent.name for path in written] == ["backends"]


def test_every_module_says_what_it_is_for() -> None:
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        assert ast.get_docstring(tree) or not tree.body, f"{source} has no docstring"
