"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.writing import write_all, write_whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "file", b"first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", b"second")
    with pytest.raises(RunDirectoryError, match=r"cannot write .*file \(6 bytes\): No space left"):
        write_all({tmp_path / "file": b"second"})
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_are_made(tmp_path: Path) -> None:
    write_all({tmp_path / "a" / "b": b"1", tmp_path / "c": b"2"})
    assert (tmp_path / "a" / "b").read_bytes() == b"1"
    assert (tmp_path / "c").read_bytes() == b"2"
