"""Signed replies: what is unsigned, foreign, changed, stale or replayed counts as absent."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from fedmaml.config import resolve, to_run_config
from fedmaml.config.at_site import identity_of
from fedmaml.core.errors import BackendError, ConfigurationError
from fedmaml.core.identity import Identity, difference, identity_from_text
from fedmaml.messages import signatures
from fedmaml.messages.checks import REPLY, seal
from fedmaml.messages.roll_call import add_identity
from fedmaml.provisioning.roster import Roster, write_roster
from fedmaml.server.admission import APPROVED, read_approved
from fedmaml.server.app import app as server_app
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.sites import answering
from fedmaml.sites.answering import Answering
from fedmaml.sites.site_file import read_site_file
from tests.sites.federation import new_key, new_site

SITES, BAD_SITE, BAD_NODE, BAD_ROUND = 4, 1, 3, 2  # node ids start at 2
RUN = {
    "scenario": "digits", "strategy": "fomaml", "rounds": 3, "clients": 0, "client_batch": 1,
    "inner.steps": 1, "task.train_clients": SITES, "task.validation_clients": 0,
    "task.test_clients": SITES,
}  # fmt: skip

Tamper = Callable[[Message, Message], Message]


class Federation:
    """Sites that answer in this process, one of them through somebody who tampers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        files = [new_site(folder / f"s{i}", i, SITES, key=True) for i in range(SITES)]
        keys = {f"site-{i}": new_key(folder / f"s{i}" / "node.key") for i in range(SITES)}
        write_roster(folder, Roster(keys))
        monkeypatch.setenv(APPROVED, str(folder / "approved.toml"))
        monkeypatch.setenv("FEDMAML_RUNS", str(folder / "runs"))
        self.sites = [read_site_file(file) for file in files]
        self.earlier: list[Message] = []
        self.workers = [Answering(site) for site in self.sites]

    def run(self, out: str, tamper: Tamper, of: str = "train") -> dict[str, Any]:
        """Run, tampering with the bad site's messages of a type (in the bad round, if in one)."""

        def answer(message: Message, context: Context) -> Message:
            worker = self.workers[context.node_id - 2]
            reply = worker.answer(message, context.run_id, context.node_id, context.run_config)
            if context.node_id == BAD_NODE and message.metadata.message_type == of:
                request = message.content.config_records.get("request", {"round": BAD_ROUND})
                if of != "train" or request["round"] == BAD_ROUND:
                    return tamper(message, reply)
                self.earlier.append(reply)
            return reply

        self.earlier.clear()
        run_config = to_run_config(resolve(RUN), Path(out))
        grid = InProcessGrid(answer, SITES, run_config)  # type: ignore[arg-type]
        context = Context(
            run_id=grid.run.run_id, node_id=1, node_config={}, state=RecordDict(),
            run_config=run_config,
        )  # fmt: skip
        server_app(grid=grid, context=context)
        folder = self.folder / "runs" / out
        lines = (folder / "rounds.jsonl").read_text().splitlines()
        return json.loads((folder / "summary.json").read_text()) | {
            "lines": [json.loads(line) for line in lines]
        }


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, monkeypatch)


def absent(message: Message, reply: Message) -> Message:
    return Message(Error(5, "gone"), reply_to=message)


def said(reply: Message) -> ConfigRecord:
    record = reply.content[REPLY]
    assert isinstance(record, ConfigRecord)
    return record


def unsigned(_message: Message, reply: Message) -> Message:
    del said(reply)["signature"]
    return reply


def heavier(reply: Message) -> None:
    metrics = reply.content.metric_records["metrics"]
    metrics["num-examples"] = [2 * value for value in metrics["num-examples"]]  # type: ignore[union-attr]


def changed(_message: Message, reply: Message) -> Message:
    heavier(reply)
    return reply


def changed_and_sealed(_message: Message, reply: Message) -> Message:
    heavier(reply)
    seal(reply.content)
    return reply


def signed_for(**other: Any) -> Tamper:
    """Let the site itself sign for another run, request or site."""

    def tamper(message: Message, reply: Message) -> Message:
        occasion = signatures.Occasion(
            message.metadata.run_id, message.metadata.message_id, f"site-{BAD_SITE}"
        )
        signatures.sign(reply.content, KEY[0], replace(occasion, **other))
        return reply

    return tamper


KEY: list[signatures.PrivateKey] = []


def by_another_key(message: Message, reply: Message) -> Message:
    occasion = signatures.Occasion(
        message.metadata.run_id, message.metadata.message_id, f"site-{BAD_SITE}"
    )
    signatures.sign(reply.content, ec.generate_private_key(ec.SECP384R1()), occasion)
    return reply


def of_another_base(message: Message, reply: Message) -> Message:
    said(reply)["base"] = "0" * 16
    seal(reply.content)
    return signed_for()(message, reply)


BAD: dict[str, tuple[Tamper, str, str]] = {
    "unsigned": (unsigned, "SIGNATURE", "is not signed"),
    "by another key": (by_another_key, "SIGNATURE", "not signed with the key that was approved"),
    "changed": (changed, "HASH", "its node sent"),
    "changed and sealed": (changed_and_sealed, "SIGNATURE", "not signed with the key"),
    "as another site": (signed_for(site="site-0"), "SIGNATURE", "signed as site site-0"),
    "of another run": (signed_for(run=7), "STALE", "signed for run 7"),
    "of another request": (signed_for(request="x"), "STALE", "a replay"),
    "of another base": (of_another_base, "VERSION", "computed from meta-parameters 0000"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_reply_that_is_not_the_sites_own_counts_as_absent(
    federation: Federation, case: str
) -> None:
    tamper, reason, words = BAD[case]
    KEY[:] = [signatures.private_key(federation.folder / f"s{BAD_SITE}" / "node.key")]
    gone = federation.run("gone", absent)
    bad = federation.run("bad", tamper)
    assert bad["theta_sha256"] == gone["theta_sha256"]
    (rejected,) = bad["lines"][BAD_ROUND - 1]["rejected"]
    assert (rejected["reason"], rejected["clients"]) == (reason, [BAD_SITE])
    assert words in rejected["detail"]
    assert [len(line["rejected"]) for line in bad["lines"]] == [0, 1, 0]


def test_an_earlier_reply_that_is_sent_again_is_refused(federation: Federation) -> None:
    """Its signature is sound, its round, and so its request, another."""

    def replayed(_message: Message, _reply: Message) -> Message:
        return Message(federation.earlier[0].content, reply_to=_message)

    bad = federation.run("bad", replayed)
    (rejected,) = bad["lines"][BAD_ROUND - 1]["rejected"]
    assert (rejected["reason"], "a replay" in rejected["detail"]) == ("STALE", True)


def test_an_unsigned_evaluation_is_refused(federation: Federation) -> None:
    summary = federation.run("bad", unsigned, of="evaluate")
    assert (summary["clients_evaluated"], summary["clients_asked"]) == (SITES - 1, SITES)


def with_identity(change: Callable[[Identity], Identity]) -> Tamper:
    def tamper(message: Message, reply: Message) -> Message:
        text = "".join(said(reply)["identity"])  # type: ignore[arg-type]
        add_identity(reply.content, change(identity_from_text(text)))
        return signed_for()(message, reply)

    return tamper


def nameless(message: Message, reply: Message) -> Message:
    del said(reply)["identity"]
    seal(reply.content)
    return signed_for()(message, reply)


def under(name: str) -> Tamper:
    def tamper(message: Message, reply: Message) -> Message:
        said(reply)["name"] = name
        seal(reply.content)
        return signed_for(site=name)(message, reply)

    return tamper


AT_ROLL_CALL: dict[str, tuple[Tamper, str]] = {
    "unsigned": (unsigned, "SIGNATURE: the reply of site site-1 is not signed"),
    "unknown": (under("site-9"), "SIGNATURE: site site-9 is not approved"),
    "as another site": (under("site-0"), "SIGNATURE: .* key that was approved for site site-0"),
    "no identity": (nameless, "VERSION: it does not say with which code"),
    "other version": (
        with_identity(lambda own: replace(own, version="9.9")), "VERSION: it runs fedmaml 9.9",
    ),
    "other code": (
        with_identity(lambda own: replace(own, code={**own.code, "core": "0", "x": "1"})),
        "VERSION: its code differs in core, x: install the same packages",
    ),
    "other settings": (
        with_identity(lambda own: replace(own, settings={**own.settings, "inner.lr": "9.0"})),
        r"VERSION: its configuration differs: inner.lr = 9.0 \(the coordinator has 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AT_ROLL_CALL)
def test_a_site_that_is_not_what_it_must_be_takes_no_part(
    federation: Federation, case: str
) -> None:
    tamper, words = AT_ROLL_CALL[case]
    KEY[:] = [signatures.private_key(federation.folder / f"s{BAD_SITE}" / "node.key")]
    summary = federation.run("bad", tamper, of="query.roll_call")
    (refused,) = [each for each in summary["lines"][0]["events"] if each["what"] == "refused"]
    assert re.match(words, refused["why"]), refused["why"]
    assert summary["clients_train"] == SITES - 1


def test_a_site_that_differs_is_named_even_without_approved_keys(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(APPROVED)

    def other(config: Any) -> Identity:
        own = identity_of(config)
        return replace(own, code={**own.code, "strategies": "0"})

    monkeypatch.setattr(answering, "identity_of", other)
    with pytest.raises(BackendError, match="its code differs in strategies"):
        federation.run("bad", absent)


def test_settings_that_a_site_says_itself_are_not_compared(tmp_path: Path) -> None:
    given = {"scenario": "hospitals", "strategy": "fomaml"}
    own = identity_of(resolve(given | {"data_dir": str(tmp_path), "workers": 2}, with_data=False))
    assert difference(own, identity_of(resolve(given, with_data=False))) == ""
    changed = identity_of(resolve(given | {"task.shots": 3, "task.protocol": "leave-one-out"}))
    assert "task.protocol" in difference(own, changed)


@pytest.mark.parametrize("kind", ["P-256", "none", "open", "RSA text"])
def test_other_keys_are_refused_with_the_cure(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "node.key"
    new_key(path)
    if kind == "P-256":
        from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

        key = ec.generate_private_key(ec.SECP256R1())
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    if kind == "none":
        path.unlink()
    if kind == "open":
        path.chmod(0o644)
    if kind == "RSA text":
        path.write_text("-----BEGIN RSA-----")
    words = {"P-256": "not ECDSA on the curve P-384", "none": "cannot read the node key",
             "open": "chmod 600", "RSA text": "holds no private key"}[kind]  # fmt: skip
    with pytest.raises(ConfigurationError, match=words):
        signatures.private_key(path)


def test_one_key_cannot_be_two_sites(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    texts = [
        key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + " somebody@somewhere",
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    ]
    (tmp_path / "one.toml").write_text(f'[sites]\na = "{texts[0]}"')
    assert list(read_approved(tmp_path / "one.toml")) == ["a"]
    (tmp_path / "two.toml").write_text(f'[sites]\na = "{texts[0]}"\nb = """{texts[1]}"""')
    with pytest.raises(ConfigurationError, match="sites a and b have the same key"):
        read_approved(tmp_path / "two.toml")
    (tmp_path / "three.toml").write_text('[sites]\na = "hello"')
    with pytest.raises(ConfigurationError, match=r"content of the site's \.pub file"):
        read_approved(tmp_path / "three.toml")
    with pytest.raises(ConfigurationError, match="cannot read the approved sites"):
        read_approved(tmp_path / "none.toml")
