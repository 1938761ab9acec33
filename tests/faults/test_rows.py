"""The table of faults names tests that exist: `make faults` runs them by these names."""

import re

import pytest

from tests.conftest import ROOT
from tests.faults.rows import ROWS

NAMED = sorted({start for row in ROWS.values() for start in row.shown_by})


@pytest.mark.parametrize("start", NAMED)
def test_a_row_names_a_test_that_exists(start: str) -> None:
    file, _, name = start.partition("::")
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    function = name.partition("[")[0]
    pattern = rf"^def {function}\(" if "[" in name else rf"^def {function}"
    assert re.search(pattern, text, re.MULTILINE), start
