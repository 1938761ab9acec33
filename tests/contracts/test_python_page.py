"""The code on docs/python.md runs as it stands there, from top to bottom."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("_catalogues_as_before")

PAGE = (ROOT / "docs/python.md").read_text()


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    said = capsys.readouterr().out
    assert "did you mean 'inner.steps'?" in said
    assert "<RunResult digits maml, 20 rounds: accuracy" in said
    assert "<RunResult arrays fomaml, 10 rounds: accuracy" in said
    assert (tmp_path / "runs/compare-digits/comparison.md").is_file()
