"""Commands of a coordinator about a folder that is not there."""

from pathlib import Path

import pytest

from tests.commands import fedmaml


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("verify", "nothere holds no run: it does not exist"),
        ("status", "cannot read nothere/coordinator.toml"),
    ],
)
def test_it_is_named_with_what_makes_it(verb: str, said: str, tmp_path: Path) -> None:
    done = fedmaml("coordinator", verb, "nothere", cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Errno" not in done.stderr
