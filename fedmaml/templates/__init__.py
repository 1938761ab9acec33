"""Templates of files of one's own, and what writes them: ``fedmaml new``.

`scenario` and `strategy` are modules that work as they are; a new file is one of them under another
name, beside a test of it.
"""

import re
from pathlib import Path

from fedmaml.core.errors import ConfigurationError

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


def write(kind: str, name: str, folder: Path) -> tuple[Path, Path]:
    """Write a new file and its test.

    Args:
        kind: "scenario" or "strategy".
        name: Of the file, a Python identifier in lower case; the class is named after it.
        folder: Where.

    Returns:
        The file and the test.

    Raises:
        ConfigurationError: If the kind or the name is not usable, or a file exists.
    """
    if kind not in _GIVEN:
        raise ConfigurationError(f"cannot make a new {kind!r}; known: {', '.join(_GIVEN)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigurationError(
            f"name {name!r}: a file is named in lower case letters, digits and underscores, e.g. "
            f"my_{kind}"
        )
    file, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (file, test):
        if path.exists():
            raise ConfigurationError(f"{path} exists; choose another name, or remove it")
    words = name.replace("_", " ")
    template = Path(__file__).with_name(f"{kind}.py").read_text(encoding="utf-8")
    text = (
        template.replace(f"My{kind.capitalize()}", words.title().replace(" ", ""))
        .replace(f"my {kind}", words)
        .replace(f"My {kind}", words.capitalize())
    )
    file.write_text(text, encoding="utf-8")
    given = _GIVEN[kind].format(name=name)
    test.write_text(_TEST.format(name=name, given=given), encoding="utf-8")
    return file, test
