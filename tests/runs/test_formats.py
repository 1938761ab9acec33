"""Summaries say in which format they are, and those of another one are refused."""

import json
from pathlib import Path

import pytest

from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.records import FORMAT
from tests.commands import fedmaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"versions": {"fedmaml": "0.0.7"}}',
            r"by fedmaml 0\.0\.7 in format none, and this is",
        ),
        (
            '{"format": 99, "versions": {"fedmaml": "9.1"}}',
            rf"fedmaml 9\.1 in format 99, .* reads format {FORMAT}: use the version that wrote "
            r"it, or run it again: fedmaml run --config .*config\.toml --out .* --force",
        ),
        ('{"format": 1}', r"is damaged \(not a run's summary\)"),
        ("[]", r"is damaged \(not a run's summary\)"),
        ('{"format": ', r"is damaged"),
    ],
)
def test_what_cannot_be_read_names_who_wrote_it_and_what_to_do(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=message):
        RunDirectory(tmp_path).summary()


def test_a_summary_that_is_written_again_keeps_its_format(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.finish({"rounds": 3, "versions": {}})
    written = (tmp_path / "summary.json").read_bytes()
    directory.finish(json.loads(written))
    assert (tmp_path / "summary.json").read_bytes() == written
    assert next(iter(json.loads(written))) == "format"


def test_a_run_of_an_engine_that_is_gone_is_shown_and_reported(tmp_path: Path) -> None:
    settings = ("--strategy", "protonet", "--rounds", "1", "--set", "task.test_clients=3")
    assert fedmaml("run", "digits", *settings, "--out", "run", cwd=tmp_path).returncode == 0
    for name in ("summary.json", "config.toml", "rounds.jsonl"):
        file = tmp_path / "run" / name
        text = file.read_text()
        for engine in ("shared", "auto"):
            text = text.replace(f'"{engine}', '"compiled')
        file.write_text(text)
    assert '"compiled' in (tmp_path / "run" / "summary.json").read_text()
    assert 'engine = "compiled"' in (tmp_path / "run" / "config.toml").read_text()
    shown = fedmaml("show", "run", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "protonet" in shown.stdout.lower()
    reported = fedmaml("report", "run", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    again = fedmaml("run", "--config", "run/config.toml", "--out", "again", cwd=tmp_path)
    assert again.returncode != 0
    assert "engine = 'compiled': input should be 'auto', 'fused'," in again.stderr
