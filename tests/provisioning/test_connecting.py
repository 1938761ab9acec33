"""The way to the coordinator: bad certificates, clocks, proxies and ports, by cause and cure."""

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedmaml.core.errors import BackendError, ConfigurationError
from fedmaml.provisioning.connecting import STEPS, connect, first_failure
from fedmaml.provisioning.coordinator_file import host_and_port
from fedmaml.provisioning.site_folder import Invitation, make_site
from fedmaml.provisioning.site_run import refuse_distrusted
from fedmaml.simulations.backends.processes import free_ports
from tests.commands import fedmaml
from tests.provisioning.servers import HOST, Authority, context_of, new_authority, serving

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")

LONG_AGO, LATER = timedelta(days=-200), timedelta(days=2)


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return new_authority(tmp_path)


def test_a_good_coordinator_passes_every_step(tmp_path: Path, authority: Authority) -> None:
    with serving(context_of(tmp_path, authority), datetime.now(UTC)) as address:
        found = connect(address, authority.certificate)
    assert [finding.check for finding in found] == list(STEPS)
    assert all(finding.passed for finding in found), found
    refuse_distrusted(found)


Context = ssl.SSLContext | None
BAD: dict[str, tuple[Callable[[Path, Authority], Context], str, str]] = {
    "expired": (
        lambda folder, ca: context_of(folder, ca, begin=datetime.now(UTC) + LONG_AGO),
        "has expired", "coordinator renew",
    ),
    "not yet valid": (
        lambda folder, ca: context_of(folder, ca, begin=datetime.now(UTC) + LATER),
        "not yet valid", "timedatectl",
    ),
    "wrong host": (
        lambda folder, ca: context_of(folder, ca, ("other.example",)),
        f"not for {HOST}", "coordinator.address",
    ),
    "wrong authority": (
        lambda folder, _: context_of(folder, new_authority(folder, "another")),
        "another authority", "ca.crt",
    ),
    "plain text": (lambda *_: None, "without TLS", "port"),
    "TLS 1.1": (
        lambda folder, ca: context_of(folder, ca, newest=ssl.TLSVersion.TLSv1_1),
        "below 1.2", "ssl_protocols",
    ),
}  # fmt: skip
"""Case -> what the server has, and words of cause and cure."""


@pytest.mark.parametrize("case", BAD)
def test_a_bad_certificate_is_refused_with_cause_and_cure_in_one_line(
    case: str, tmp_path: Path, authority: Authority
) -> None:
    make, cause, cure = BAD[case]
    with serving(make(tmp_path, authority), datetime.now(UTC)) as address:
        began = time.monotonic()
        found = connect(address, authority.certificate)
        assert time.monotonic() - began < 5.0
    failure = first_failure(found)
    assert failure is not None
    assert failure.check == "TLS"
    assert cause in failure.what
    assert cure in failure.fix
    assert "\n" not in failure.line()
    assert [finding.passed for finding in found[-2:]] == [None, None]
    with pytest.raises(BackendError, match=cause):
        refuse_distrusted(found)


def test_site_run_ends_before_anything_starts(tmp_path: Path, authority: Authority) -> None:
    begin = datetime.now(UTC) + LONG_AGO
    with serving(context_of(tmp_path, authority, begin=begin), datetime.now(UTC)) as address:
        make_site(tmp_path / "ward", Invitation("ward", 0, 1, address), authority.certificate)
        done = fedmaml("site", "run", "ward", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fedmaml: BackendError: TLS: the coordinator's certificate has expired")
    assert not (tmp_path / "ward" / "worker").exists()


def test_a_wrong_clock_is_named_with_its_size(tmp_path: Path, authority: Authority) -> None:
    ahead = datetime.now(UTC) - timedelta(hours=1)  # the server's
    with serving(context_of(tmp_path, authority), ahead) as address:
        failure = first_failure(connect(address, authority.certificate))
    assert failure is not None
    assert failure.check == "clock"
    assert "s ahead of the coordinator" in failure.what
    assert 3590 < float(failure.what.split()[3]) < 3610


def test_a_server_that_is_no_coordinator(tmp_path: Path, authority: Authority) -> None:
    with serving(context_of(tmp_path, authority), status=404) as address:
        failure = first_failure(connect(address, authority.certificate))
    assert failure is not None
    assert (failure.check, "404" in failure.what) == ("answer", True)
    refuse_distrusted([failure])  # a proxy whose SuperLink starts later: waited for


def test_nobody_listens(authority: Authority) -> None:
    (port,) = free_ports(1)
    found = connect(f"127.0.0.1:{port}", authority.certificate)
    failure = first_failure(found)
    assert failure is not None
    assert failure.check == "port"
    assert "not running" in failure.fix
    assert [finding.passed for finding in found] == [True, True, False, None, None, None]


def test_a_name_without_an_address(authority: Authority) -> None:
    failure = first_failure(connect("nowhere.invalid:443", authority.certificate))
    assert failure is not None
    assert failure.check == "name"


def test_a_proxy_that_refuses(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(None, status=403) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{proxy}")
        failure = first_failure(connect("fl.example.org:443", authority.certificate))
        assert failure is not None
        assert failure.check == "proxy"
        assert "403" in failure.what
        assert "secret" not in failure.line()
        assert "NO_PROXY=fl.example.org" in failure.fix


def test_an_authority_that_is_no_certificate(tmp_path: Path, authority: Authority) -> None:
    wrong = tmp_path / "wrong.crt"
    wrong.write_text("not a certificate")
    with serving(context_of(tmp_path, authority)) as address:
        failure = first_failure(connect(address, wrong))
    assert failure is not None
    assert failure.check == "TLS"
    assert "cannot be read" in failure.what


@pytest.mark.parametrize("address", ["host", "host:", ":443", "host:0", "host:x", "host:70000"])
def test_an_address_needs_host_and_port(address: str) -> None:
    with pytest.raises(ConfigurationError, match="write host:port"):
        host_and_port(address)


def test_addresses_of_ipv6_have_brackets() -> None:
    assert host_and_port("[::1]:443") == ("::1", 443)
