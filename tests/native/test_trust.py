"""A kept library is loaded only if nobody else can have written it."""

import os
from pathlib import Path

import pytest

from fedmaml import native
from fedmaml.native import compilers
from fedmaml.native.compilers import NativeError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no modes on Windows")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file by the name of a kept library, in a folder that only its owner can write to."""
    monkeypatch.setenv("FEDMAML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_carried", lambda: None)
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True, mode=0o700)
    path = folder / f"kernels-{native._fingerprint()}-00000000.so"
    path.touch(mode=0o600)
    return path


def test_ones_own_library_is_trusted(library: Path) -> None:
    assert native.distrusted(library) == ""


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_others_may_write_neither_to_the_file_nor_to_the_folder(library: Path, mode: int) -> None:
    library.chmod(mode)
    assert native.distrusted(library) == f"{library} can be written by others"
    library.chmod(0o700)
    library.parent.chmod(mode)
    assert native.distrusted(library) == f"{library.parent} can be written by others"


def test_a_link_is_not_followed(library: Path, tmp_path: Path) -> None:
    library.rename(tmp_path / "planted.so")
    library.symlink_to(tmp_path / "planted.so")
    assert native.distrusted(library) == f"{library} is a link"


def test_a_library_of_another_user_is_not_loaded(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(library, 12345, -1) if os.getuid() == 0 else pytest.skip("only root gives files away")
    assert native.distrusted(library) == f"{library} belongs to another user (number 12345)"
    loaded: list[Path] = []
    monkeypatch.setattr(native, "_loaded", lambda path, *_: loaded.append(path))

    def nobody() -> None:
        raise NativeError("no compiler")

    monkeypatch.setattr(compilers, "find", nobody)
    monkeypatch.setattr(compilers, "of_the_system", lambda: None)
    with pytest.raises(NativeError, match="no compiler"):
        native._loaded_or_built()
    assert loaded == []
    os.chown(library, 0, -1)
    native._loaded_or_built()
    assert loaded == [library]


def test_a_folder_of_ones_own_is_closed_to_others_before_something_is_built(library: Path) -> None:
    library.parent.chmod(0o777)
    native._own_folder(library.parent)
    assert library.parent.stat().st_mode & 0o777 == 0o755


def test_nothing_is_built_in_the_folder_of_another_user(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(NativeError, match=r"belongs to another user.*FEDMAML_CACHE"):
        native._own_folder(library.parent)
