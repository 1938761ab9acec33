"""The site's own file: read, checked, written; an error names file, key and cure."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedmaml.core.errors import ConfigurationError
from fedmaml.sites.site_file import (
    Coordinator,
    Data,
    Limits,
    Site,
    read_site_file,
    write_site_file,
)


def written(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path


def test_paths_start_in_the_folder_of_the_file(tmp_path: Path) -> None:
    site = read_site_file(
        written(
            tmp_path,
            """
            name = "cleveland"
            number = 1
            sites = 3
            [data]
            table = "patients.csv"
            target = "disease"
            [folders]
            worker = "/run/fedmaml"
            [coordinator]
            address = "localhost:443"
            key = "keys/node.key"
            """,
        )
    )
    assert site.data.table == tmp_path / "patients.csv"
    assert site.coordinator.key == tmp_path / "keys" / "node.key"
    assert site.coordinator.certificate is None
    assert site.folders.memories == tmp_path / "memories"
    assert site.socket == Path("/run/fedmaml/worker.sock")


def test_what_is_written_is_read_again_and_is_its_owners_alone(tmp_path: Path) -> None:
    site = Site(
        name="a.b-1",
        number=2,
        sites=3,
        data=Data(module="wards.data:load"),
        limits=Limits(processes=2),
        coordinator=Coordinator(address="h:1", key=tmp_path / "node.key"),
    )
    path = tmp_path / "new" / "site.toml"
    write_site_file(path, site)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = read_site_file(path)
    assert (read.name, read.number, read.sites, read.data) == ("a.b-1", 2, 3, site.data)
    assert (read.limits, read.coordinator) == (site.limits, site.coordinator)
    write_site_file(path, read)  # relative to its folder where they are below it
    assert str(tmp_path / "new") not in path.read_text()
    assert read_site_file(path) == read


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "name is missing"),
        ("name = ", "not valid TOML"),
        ('name = "A b"', "lower-case letters"),
        ('name = "a"\nnumber = 3\nsites = 3', "the last one has the number 2"),
        ('name = "a"\n[data]\nfolder = "d"\ntable = "t"', "names folder and table: keep one"),
        ('name = "a"\n[data]\ntable = "t"', "needs data.target"),
        ('name = "a"\n[data]\nfolder = "d"\ntarget = "t"', "no effect with data.folder"),
        ('name = "a"\n[data]\nmodule = "/tmp/x.py"', "package.module:function"),
        ('name = "a"\n[limits]\nmessage_bytes = 1', "limits.message_bytes = 1"),
        ('name = "a"\n[limits]\nmemory = 1', "limits.memory"),
        (f'name = "a"\n[folders]\nworker = "{"x" * 99}"', "name a folder with a shorter path"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=words) as refusal:
        read_site_file(path)
    assert str(path) in str(refusal.value)


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="fedmaml site init"):
        read_site_file(tmp_path / "none.toml")


def test_the_module_imports_neither_torch_nor_flower() -> None:
    code = (
        "import sys, fedmaml.sites.site_file\n"
        "assert not {'torch', 'flwr'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
