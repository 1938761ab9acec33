"""Loading heart disease data: what is said where a file is missing, changed or out of reach."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from fedmaml.core.errors import DataError
from fedmaml.simulations.datasets import heart_disease


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let nothing that was loaded before answer, and keep what is loaded here to this test."""
    monkeypatch.delenv("FEDMAML_DATA", raising=False)
    clear()
    yield
    clear()


def clear() -> None:
    for function in vars(heart_disease).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(data_dir / "heart_disease", tmp_path / "heart_disease")
    return tmp_path


def test_a_missing_folder_is_named_with_what_it_should_hold(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "heart_disease" / "processed.cleveland.data"
    text = rf"no file {re.escape(str(missing))}: .*--data-dir or FEDMAML_DATA.*download it from UCI"
    with pytest.raises(DataError, match=text):
        heart_disease.load(str(tmp_path / "nowhere"))


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "heart_disease" / "processed.va.data").unlink()
    with pytest.raises(DataError, match=r"no file .*processed\.va\.data"):
        heart_disease.load(str(copy))


def test_a_changed_file_is_refused_with_both_fingerprints(copy: Path) -> None:
    path = copy / "heart_disease" / "processed.switzerland.data"
    path.write_bytes(path.read_bytes().replace(b"32,1", b"33,1", 1))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    text = (
        rf"{re.escape(str(path))} is not the original file of UCI: its SHA-256 is {found}, "
        rf"expected {heart_disease.DIGESTS['switzerland'][7:]}; replace it"
    )
    with pytest.raises(DataError, match=text):
        heart_disease.load(str(copy))


def test_the_environment_variable_names_the_folder(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMAML_DATA", str(copy))
    assert [len(y) for _, y in heart_disease.load()] == [303, 294, 123, 200]


def test_the_environment_variable_counts_when_it_is_read_not_when_it_was_first_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMAML_DATA", str(copy))
    heart_disease.load()
    monkeypatch.setenv("FEDMAML_DATA", str(copy / "nowhere"))
    with pytest.raises(DataError, match="nowhere"):
        heart_disease.load()


def test_a_given_folder_goes_before_the_environment_variable(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMAML_DATA", str(copy / "nowhere"))
    assert len(heart_disease.load(str(copy))) == 4


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("no route to host"),
        requests.Timeout("timed out"),
        ValueError("SHA256 hash of downloaded file does not match the known hash"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_a_network_both_ways_out_are_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retrieve(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr("pooch.retrieve", retrieve)
    text = (
        rf"cannot download {re.escape(heart_disease.ADDRESS)}processed\.cleveland\.data "
        rf"\({type(error).__name__}\): either connect this machine to the internet, or copy "
        r"processed\.cleveland\.data into a folder heart_disease .*--data-dir or FEDMAML_DATA"
    )
    with pytest.raises(DataError, match=text) as raised:
        heart_disease.load()
    assert raised.value.__cause__ is error


def test_a_failed_load_is_tried_again(copy: Path) -> None:
    away = copy / "away"
    (copy / "heart_disease").rename(away)
    with pytest.raises(DataError):
        heart_disease.load(str(copy))
    away.rename(copy / "heart_disease")
    assert len(heart_disease.load(str(copy))) == 4
