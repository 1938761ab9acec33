"""The doctor of a site: every injected fault is named, with its fix, and nothing else is."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import pytest

from fedmaml.provisioning import connecting, doctor
from fedmaml.provisioning.doctor import Machine, examine
from fedmaml.provisioning.findings import Finding
from fedmaml.provisioning.site_folder import Invitation, make_site
from fedmaml.simulations.backends.processes import free_ports
from fedmaml.sites.site_file import Site, read_site_file, write_site_file
from tests.commands import fedmaml
from tests.provisioning.servers import Authority, context_of, new_authority, serving

ROWS = "age,pressure,disease\n60,120,0\n51,,1\n44,140,1\n70,133,0\n"
SECRET = "770077"  # a value of the data, which no line may show


class Ward:
    """A site in a folder, and its coordinator; a fault changes either."""

    def __init__(self, folder: Path, stack: ExitStack, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.stack, self.patch = folder, stack, patch
        self.authority: Authority = new_authority(folder)
        self.table = folder / "patients.csv"
        self.table.write_text(ROWS)
        self.machine = Machine(free_bytes=1)
        address = stack.enter_context(
            serving(context_of(folder, self.authority), datetime.now(UTC))
        )
        invited = Invitation("ward", 0, 1, address)
        make_site(folder / "site", invited, self.authority.certificate, str(self.table), "disease")
        self.file = folder / "site" / "site.toml"

    def site(self) -> Site:
        return read_site_file(self.file)

    def at(self, address: str) -> None:
        """Let the site's file name another coordinator."""
        site = self.site()
        write_site_file(
            self.file, replace(site, coordinator=replace(site.coordinator, address=address))
        )

    def served(self, now: datetime | None = None, **options: object) -> None:
        """Let the coordinator have another certificate, or another clock."""
        context = context_of(self.folder, self.authority, **options)  # type: ignore[arg-type]
        self.at(self.stack.enter_context(serving(context, now or datetime.now(UTC))))

    def rows(self, text: str) -> None:
        self.table.write_text(text)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ExitStack() as stack:
        yield Ward(tmp_path, stack, monkeypatch)


def old_flower(ward: Ward) -> None:
    known = metadata.version
    ward.patch.setattr(
        doctor.metadata, "version", lambda name: "1.0.0" if name == "flwr" else known(name)
    )


def refusing_proxy(ward: Ward) -> None:
    ward.patch.setenv(
        "HTTPS_PROXY", "http://" + ward.stack.enter_context(serving(None, status=403))
    )
    ward.at("fl.example.org:443")


def dead_worker(ward: Ward) -> None:
    site = ward.site()
    site.folders.worker.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:  # its owner is gone, the file is left
        listener.bind(str(site.socket))


FAULTS: dict[str, tuple[Callable[[Ward], object], str, str]] = {
    "DNS": (lambda ward: ward.at("nowhere.invalid:443"), "name", "coordinator.address"),
    "port": (lambda ward: ward.at(f"127.0.0.1:{free_ports(1)[0]}"), "port", "not running"),
    "proxy": (refusing_proxy, "proxy", "NO_PROXY"),
    "chain": (
        lambda ward: new_authority(ward.folder / "site") and None, "TLS", "ca.crt",
    ),
    "host name": (lambda ward: ward.served(names=("other.example",)), "TLS", "renew"),
    "expired": (
        lambda ward: ward.served(begin=datetime.now(UTC) - timedelta(days=200)), "TLS", "renew",
    ),
    "clock": (
        lambda ward: ward.served(datetime.now(UTC) + timedelta(minutes=10)), "clock", "timedatectl",
    ),
    "disk": (
        lambda ward: setattr(ward, "machine", Machine(free_bytes=2**62)), "disk", "make room",
    ),
    "Python": (
        lambda ward: setattr(ward, "machine", Machine((3, 9), 1)), "Python", "3.11 or newer",
    ),
    "packages": (old_flower, "packages", "pip install -U fedmaml"),
    "schema": (lambda ward: ward.rows("age,ill\n60,1\n"), "data", "data.target"),
    "labels": (
        lambda ward: ward.rows(f"age,disease\n{SECRET},1\n51,1\n"), "labels", "data.target",
    ),
    "worker": (dead_worker, "worker", "fedmaml site run"),
    "key": (lambda ward: ward.site().coordinator.key.chmod(0o644), "node key", "chmod 600"),
    "file": (lambda ward: ward.file.write_text("name = 3"), "site file", "correct it"),
}  # fmt: skip
"""Fault -> how it is injected, the check that must name it, and a word of its fix."""


def wrong(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.passed is False]


def test_a_sound_site_has_nothing_to_mend(ward: Ward) -> None:
    found = examine(ward.file, ward.machine)
    assert not wrong(found)
    looked_at = {finding.check for finding in found if finding.passed}
    assert looked_at >= {
        "Python", "packages", "site file", "node key", "disk", "data", "labels", *connecting.STEPS,
    }  # fmt: skip
    (data,) = (finding for finding in found if finding.check == "data")
    assert data.what == "4 rows, 2 inputs, 1 cells missing"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_alone_with_its_fix(fault: str, ward: Ward) -> None:
    inject, check, word = FAULTS[fault]
    inject(ward)
    (finding,) = wrong(examine(ward.file, ward.machine))
    assert finding.check == check
    assert word in finding.fix
    assert SECRET not in finding.line()


def test_the_command_ends_with_1_and_writes_json(ward: Ward) -> None:
    dead_worker(ward)
    done = fedmaml("site", "doctor", str(ward.file.parent), "--json", cwd=ward.folder)
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert [each["check"] for each in found if each["passed"] is False] == ["worker"]
    done = fedmaml("site", "doctor", str(ward.file), cwd=ward.folder)
    assert "WRONG worker: it does not answer" in done.stdout
    assert "fix: start the site again" in done.stdout


def test_a_module_says_how_many_and_not_what(ward: Ward) -> None:
    (ward.folder / "wardsdata.py").write_text(
        "import numpy as np\n"
        "def load():\n    return np.ones((5, 2)), np.array([0, 1, 0, 1, 1])\n"
        f"def broken():\n    raise ValueError('{SECRET}')\n"
    )
    ward.patch.syspath_prepend(str(ward.folder))
    ward.patch.chdir(ward.folder)
    for name, words in {"load": "5 examples", "broken": "ValueError", "none": "imported"}.items():
        file = ward.folder / name / "site.toml"
        make_site(file.parent, Invitation("w", 0, 1, ward.site().coordinator.address),
                  ward.authority.certificate, f"wardsdata:{name}")  # fmt: skip
        (data,) = (each for each in examine(file, ward.machine) if each.check == "data")
        assert words in data.what
        assert SECRET not in data.line()
