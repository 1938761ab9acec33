"""Templates of files of one's own, and what writes them: ``fedmaml new``.

`scenario` and `strategy` are modules that work as they are; a new file is one of them under another
name, beside a test of it. `app` is the package of a Flower app; a new one is a folder with its
project file, a page and a test.
"""

import keyword
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

from fedmaml.core.errors import ConfigurationError, DiskError
from fedmaml.runs.writing import write_all
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE as STRATEGIES

_TEST = '''"""Whether {name} works here; what is wrong says what to change."""

from pathlib import Path

from fedmaml.checking import check
from fedmaml.config import resolve


def test_{name}() -> None:
    file = Path(__file__).with_name("{name}.py")
    config = resolve({{{given}}})
    assert [result.detail for result in check(config) if not result.passed] == []
'''
_GIVEN = {
    "scenario": '"scenario": "{name}", "scenario_from": str(file)',
    "strategy": '"scenario": "sinusoid", "strategy": "{name}", "strategy_from": str(file)',
}


_APP = {
    "pyproject.toml": "app.toml",
    "README.md": "app_readme.md",
    "test_{name}.py": "app_test.py.txt",
    "{name}/__init__.py": "app/__init__.py",
    "{name}/client_app.py": "app/client_app.py",
    "{name}/server_app.py": "app/server_app.py",
    "{name}/task.py": "app/task.py",
}
"""File of an app -> its template."""

_LICENCE = "Name your licence here; Flower's app format asks for this file.\n"


def write(kind: str, name: str, folder: Path) -> tuple[Path, Path]:
    """Write a new file, or the folder of an app, and its test.

    Args:
        kind: "scenario", "strategy" or "app".
        name: Of the file or the folder, a Python identifier in lower case; the class is named after
            it.
        folder: Where.

    Returns:
        The file that is to be changed, and the test.

    Raises:
        ConfigurationError: If the kind or the name is not usable, or a file exists.
        DiskError: If a file cannot be written; then none is.
    """
    if kind not in (*_GIVEN, "app"):
        raise ConfigurationError(f"cannot make a new {kind!r}; known: {', '.join(_GIVEN)}, app")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigurationError(
            f"name {name!r}: a file is named in lower case letters, digits and underscores, e.g. "
            f"my_{kind}"
        )
    if has := _has_name(name):
        raise ConfigurationError(f"name {name!r}: {has} has it; take another, e.g. my_{name}")
    if kind == "app":
        return _write_app(name, folder / name.replace("_", "-"))
    file, test = folder / f"{name}.py", folder / f"test_{name}.py"
    _refuse_existing(file, test)
    given = _GIVEN[kind].format(name=name)
    _write({file: _template(f"{kind}.py", kind, name), test: _TEST.format(name=name, given=given)})
    return file, test


def _has_name(name: str) -> str:
    """Return what else a file of this name would be taken for; "" for nothing."""
    if keyword.iskeyword(name) or name in sys.stdlib_module_names:
        return "Python"
    if any(name in catalogue and catalogue.place(name) for catalogue in (SCENARIOS, STRATEGIES)):
        return "a scenario or strategy (fedmaml list)"
    return "an installed package" if name in {"fedmaml", *packages_distributions()} else ""


def _write_app(name: str, folder: Path) -> tuple[Path, Path]:
    _refuse_existing(folder)
    texts = {file.format(name=name): _template(from_, "app", name) for file, from_ in _APP.items()}
    try:
        _write({folder / file: text for file, text in {"LICENSE": _LICENCE, **texts}.items()})
    except DiskError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / name / "task.py", folder / f"test_{name}.py"


def _write(files: Mapping[Path, str]) -> None:
    """Write all files, or none of them."""
    try:
        write_all({path: text.encode() for path, text in files.items()})
    except DiskError:
        for path in files:
            path.unlink(missing_ok=True)
        raise


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise ConfigurationError(f"{path} exists; choose another name, or remove it")


def _template(file: str, kind: str, name: str) -> str:
    """Return a template under a name."""
    words = name.replace("_", " ")
    own = words.title().replace(" ", "")
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    for generic, special in (
        (f"my-{kind}", name.replace("_", "-")),  # as Flower names an app
        (f"My{kind.capitalize()}", own),
        (f"my{kind}", own.lower()),
        (f"my_{kind}", name),
        (f"my {kind}", words),
        (f"My {kind}", words.capitalize()),
    ):
        text = text.replace(generic, special)
    return text
