"""Drawings that lie beside the runs stand in their report."""

import base64
import shutil
from pathlib import Path

import pytest

from fedmaml.core.errors import RunDirectoryError
from fedmaml.report import write_report
from fedmaml.report.pictures import pictures_in

DRAWING = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with two drawings and a note."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "what_it_sees.svg").write_bytes(DRAWING)
    (folder / "Before.PNG").write_bytes(b"png")
    (folder / "notes.txt").write_text("no picture")
    return tmp_path


def test_drawings_are_found_by_name_and_their_names_are_captions(beside: Path) -> None:
    before, sees = pictures_in([beside])
    assert (before.caption, sees.caption) == ("Before", "What it sees")
    kind, content = sees.source.split(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(content) == DRAWING


def test_a_folder_without_drawings_has_none(tmp_path: Path) -> None:
    assert pictures_in([tmp_path]) == []


def test_what_cannot_be_read_is_named(beside: Path) -> None:
    (beside / "pictures" / "torn.svg").mkdir()
    with pytest.raises(RunDirectoryError, match=r"torn.svg cannot be read: .*; mend or remove it"):
        pictures_in([beside])


def test_the_report_shows_them_as_images_where_no_script_runs(compared: Path, beside: Path) -> None:
    folder = shutil.copytree(compared, beside / "runs")
    shutil.copytree(beside / "pictures", folder / "pictures")
    page = write_report([folder], beside / "page.html").page.read_text(encoding="utf-8")
    encoded = base64.b64encode(DRAWING).decode()
    assert f'<img src="data:image/svg+xml;base64,{encoded}" alt="What it sees">' in page
    assert '<a href="#pictures">' in page


def test_a_report_without_them_does_not_speak_of_them(compared: Path, tmp_path: Path) -> None:
    page = write_report([compared], tmp_path / "page.html").page.read_text(encoding="utf-8")
    assert "pictures" not in page
