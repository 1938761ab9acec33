"""Node keys, certificates, and who may take part."""

import ssl
import stat
import subprocess
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve

from fedmaml.core.errors import BackendError, ConfigurationError
from fedmaml.provisioning import superlink
from fedmaml.provisioning.certificates import certificate_fingerprint, names_of
from fedmaml.provisioning.coordinator_file import (
    Coordinator,
    make_coordinator,
    read_coordinator,
    renew,
)
from fedmaml.provisioning.keys import fingerprint, make_node_key, public_line, public_path
from fedmaml.provisioning.roster import Roster, approve, read_roster, revoke
from fedmaml.provisioning.site_folder import Invitation, make_site
from fedmaml.provisioning.superlink import Enrolment
from fedmaml.sites.site_file import read_site_file

TWO = Coordinator("fl.example.org:443", "127.0.0.1:9443", ("a", "b"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "fed"
    make_coordinator(made, TWO)
    return made


def new_key(folder: Path, name: str) -> str:
    make_node_key(folder / f"{name}.key", name)
    return public_path(folder / f"{name}.key").read_text()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- keys -------------------------------------------------------------------------------------


def test_a_node_key_is_one_that_flower_takes(tmp_path: Path) -> None:
    text = new_key(tmp_path, "a")
    private = serialization.load_ssh_private_key((tmp_path / "a.key").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert uses_nist_ec_curve(private.public_key())
    known = serialization.load_ssh_public_key(text.encode())
    assert known.public_numbers() == private.public_key().public_numbers()
    assert mode(tmp_path / "a.key") == 0o600


@pytest.mark.skipif(which("ssh-keygen") is None, reason="no OpenSSH")
def test_the_fingerprint_is_that_of_openssh(tmp_path: Path) -> None:
    text = new_key(tmp_path, "a")
    command = ["ssh-keygen", "-lf", str(public_path(tmp_path / "a.key"))]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split()[:3] == ["384", fingerprint(text), "a"]


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    new_key(tmp_path, "a")
    before = (tmp_path / "a.key").read_bytes()
    with pytest.raises(ConfigurationError, match="never replaced"):
        make_node_key(tmp_path / "a.key", "a")
    assert (tmp_path / "a.key").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with nothing"),
        ("ssh-ed25519 AAAA x", "begins with ssh-ed25519"),
        ("ecdsa-sha2-nistp384 AAAA x", "not a node key"),
    ],
)
def test_what_is_no_node_key_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        public_line(text)


def test_a_private_key_that_somebody_sent_is_refused_by_name(tmp_path: Path) -> None:
    new_key(tmp_path, "a")
    with pytest.raises(ConfigurationError, match="must never leave its site"):
        public_line((tmp_path / "a.key").read_text())


# --- the coordinator's folder -----------------------------------------------------------------


def test_a_coordinator_is_for_its_owner_alone(folder: Path) -> None:
    assert mode(folder) == 0o700
    assert {mode(folder / name) for name in ("ca.key", "server.key", "coordinator.toml")} == {0o600}
    assert read_coordinator(folder) == TWO
    with pytest.raises(ConfigurationError, match="holds a coordinator already"):
        make_coordinator(folder, TWO)


def test_the_certificate_is_for_the_names_that_reach_it(folder: Path) -> None:
    assert names_of(folder / "server.crt") == ["fl.example.org", "127.0.0.1", "localhost"]
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    assert len(context.get_ca_certs()) == 1


def test_a_renewed_certificate_keeps_the_authority(folder: Path) -> None:
    before = [(folder / name).read_bytes() for name in ("ca.crt", "server.crt")]
    assert renew(folder, ["10.0.0.7"])[-1] == "10.0.0.7"
    after = [(folder / name).read_bytes() for name in ("ca.crt", "server.crt")]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    authority = x509.load_pem_x509_certificate(after[0])
    x509.load_pem_x509_certificate(after[1]).verify_directly_issued_by(authority)


@pytest.mark.skipif(which("openssl") is None, reason="no OpenSSL")
def test_the_fingerprint_of_the_authority_is_that_of_openssl(folder: Path) -> None:
    command = ["openssl", "x509", "-in", "ca.crt", "-noout", "-fingerprint", "-sha256"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("=" + certificate_fingerprint(folder / "ca.crt"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "address"),
        ('address = "x"\nlisten = "l:1"\nsites = ["a"]', "host:port"),
        ('address = "x:1"\nlisten = "l:1"\nsites = []', "sites"),
        ('address = "x:1"\nlisten = "l:1"\nsites = ["A b"]', "no name of a site"),
        ('address = "x:1"\nlisten = "l:1"\nsites = ["a", "a"]', "named twice"),
        ("sites = [", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(folder: Path, text: str, words: str) -> None:
    (folder / "coordinator.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        read_coordinator(folder)


# --- approving and revoking -------------------------------------------------------------------


def test_one_key_cannot_be_two_sites(folder: Path, tmp_path: Path) -> None:
    key = new_key(tmp_path, "a")
    found = approve(folder, "a", key)
    assert approve(folder, "a", key, found) == found  # again
    with pytest.raises(ConfigurationError, match="that of site a already"):
        approve(folder, "b", key)
    assert list(read_roster(folder).sites) == ["a"]
    assert mode(folder / "approved.toml") == 0o600


def test_a_site_cannot_have_two_keys(folder: Path, tmp_path: Path) -> None:
    approve(folder, "a", new_key(tmp_path, "a"))
    with pytest.raises(ConfigurationError, match="another key already"):
        approve(folder, "a", new_key(tmp_path, "new"))


def test_a_fingerprint_that_differs_is_refused(folder: Path, tmp_path: Path) -> None:
    other = fingerprint(new_key(tmp_path, "other"))
    with pytest.raises(ConfigurationError, match="who changed it"):
        approve(folder, "a", new_key(tmp_path, "a"), other)
    assert read_roster(folder) == Roster()


def test_only_sites_of_the_federation_are_approved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no site of this federation; known: a, b"):
        approve(folder, "c", new_key(tmp_path, "c"))


def test_a_revoked_key_stays_out_and_the_site_may_come_back_with_another(
    folder: Path, tmp_path: Path
) -> None:
    key = new_key(tmp_path, "a")
    assert approve(folder, "a", key) == revoke(folder, "a")
    for name in ("a", "b"):
        with pytest.raises(ConfigurationError, match="was revoked, and stays so"):
            approve(folder, name, key)
    approve(folder, "a", new_key(tmp_path, "new"))
    with pytest.raises(ConfigurationError, match="not approved; approved: a"):
        revoke(folder, "b")


# --- the site's folder ------------------------------------------------------------------------


def test_a_site_begins_with_key_authority_and_file(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("age,disease\n60,1\n")
    invited = Invitation("a", 1, 2, "fl.example.org:443")
    found = make_site(tmp_path / "ward", invited, folder / "ca.crt", str(table), "disease")
    site = read_site_file(tmp_path / "ward" / "site.toml")
    assert (site.name, site.number, site.sites) == ("a", 1, 2)
    assert (site.data.table, site.data.target) == (table, "disease")
    assert site.coordinator.address == "fl.example.org:443"
    assert site.coordinator.key is not None
    assert fingerprint(public_path(site.coordinator.key).read_text()) == found
    assert mode(tmp_path / "ward") == 0o700
    with pytest.raises(ConfigurationError, match="exists already"):
        make_site(tmp_path / "ward", invited, folder / "ca.crt")


def test_a_site_that_cannot_be_leaves_no_key(folder: Path, tmp_path: Path) -> None:
    wrong = Invitation("a", 2, 2, "fl.example.org:443")
    with pytest.raises(ConfigurationError, match="number = 2 of sites = 2"):
        make_site(tmp_path / "ward", wrong, folder / "ca.crt")
    assert not list((tmp_path / "ward").iterdir())


# --- what Flower knows of it ------------------------------------------------------------------


class PretendedFlower:
    """Answers as ``flwr supernode`` does: keys are known for ever, names are never listed."""

    def __init__(self) -> None:
        self.nodes: dict[str, list[str]] = {}  # key -> id, status

    def ask(self, _space: object, _kind: str, verb: str, *words: str) -> dict[str, Any]:
        if verb == "list":
            nodes = [{"node-id": node, "status": status} for node, status in self.nodes.values()]
            return {"success": True, "nodes": nodes}
        if verb == "unregister":
            for node in self.nodes.values():
                node[1] = "unregistered" if node[0] == words[0] else node[1]
            return {"success": True}
        key = public_line(Path(words[0]).read_text())
        if key in self.nodes:
            return {"success": False, "error-message": "[code: 23] Public key already in use."}
        self.nodes[key] = [str(len(self.nodes) + 1), "registered"]
        return {"success": True, "node-id": self.nodes[key][0]}

    def connected(self) -> list[str]:
        return [node for node, status in self.nodes.values() if status != "unregistered"]


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> PretendedFlower:
    pretended = PretendedFlower()
    monkeypatch.setattr(superlink, "ask", pretended.ask)
    return pretended


def enrolment(folder: Path) -> Enrolment:
    (folder / superlink.STATE).mkdir(exist_ok=True)
    return Enrolment(SimpleNamespace(folder=folder), folder)  # type: ignore[arg-type]


def test_flower_knows_those_who_are_approved(
    folder: Path, tmp_path: Path, flower: PretendedFlower
) -> None:
    enrolled = enrolment(folder)
    for name in ("a", "b"):
        approve(folder, name, new_key(tmp_path, name))
        enrolled.take_over()
    assert flower.connected() == ["1", "2"]
    revoke(folder, "a")
    enrolled.take_over()
    assert flower.connected() == ["2"]
    approve(folder, "a", new_key(tmp_path, "new"))
    enrolment(folder).take_over()  # of another command
    assert flower.connected() == ["2", "3"]
    flower.nodes[public_line((tmp_path / "new.key.pub").read_text())][1] = "online"
    assert enrolled.online() == ["a"]


def test_a_node_that_was_registered_and_not_noted_is_found(
    folder: Path, tmp_path: Path, flower: PretendedFlower
) -> None:
    approve(folder, "a", new_key(tmp_path, "a"))
    enrolment(folder).take_over()
    (folder / superlink.STATE / "enrolled.json").unlink()  # killed before it was written
    enrolled = enrolment(folder)
    enrolled.take_over()
    flower.nodes[public_line((tmp_path / "a.key.pub").read_text())][1] = "online"
    assert enrolled.online() == ["a"]


def test_an_enrolment_that_fails_names_the_cure(
    folder: Path, tmp_path: Path, flower: PretendedFlower
) -> None:
    for name in ("a", "b"):
        approve(folder, name, new_key(tmp_path, name))
    enrolment(folder).take_over()
    (folder / superlink.STATE / "enrolled.json").unlink()
    with pytest.raises(BackendError, match=r"remove .*state.db"):
        enrolment(folder).take_over()  # two nodes: nobody knows which is whose
