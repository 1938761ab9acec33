"""Ten thousand mutations, by a seed: of replies, of the files of a run, of headers of safetensors.

Whatever the bytes are, the reader says in one clear error that they are not what was written; and
where a hash covers them, every single change is found.
"""

import copy
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.config import resolve
from fedmaml.core.errors import FedmamlError
from fedmaml.messages.train import read_train_reply
from fedmaml.running import execute
from fedmaml.runs.chain import NEWEST, PREVIOUS
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.sealing import seal, unseal
from fedmaml.runs.verifying import verify
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.replies import read_all
from tests.commands import fedmaml
from tests.faults.report import SPOILED
from tests.server.test_bad_replies import ran

pytestmark = pytest.mark.slow

SETTINGS = {
    "scenario": "quadratic", "strategy": "fomaml", "rounds": 3, "outer.optimizer": "adam",
    "evaluation.every": 1,
}  # fmt: skip
WORDS = (
    "null", "true", "[]", "{}", "-1", "1e999", "NaN", '""', '"x"', "0", "9" * 30, "[1, 2]",
    '{"a": 1}', "\\u0000", "1.5",
)  # fmt: skip
HASHED = ("config.toml", "rounds.jsonl", "theta.safetensors", NEWEST)
"""Files in which `verify` finds every change."""


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return other bytes: flipped, cut, doubled, inserted, or a value replaced by another one."""
    while True:
        made, at = bytearray(content), draw.randrange(len(content))
        length = draw.choice((1, 1, 4, 40))
        match draw.randrange(7):
            case 0 | 1:
                made[at] ^= 1 << draw.randrange(8)
            case 2:
                del made[at : at + length]
            case 3:
                made[at:at] = made[at : at + length]
            case 4:
                made[at:at] = draw.randbytes(length)
            case 5:
                del made[at:]
            case 6:
                values = list(re.finditer(rb'(?<=[:=\[,] )("[^"\n]*"|[-\d.e]+|true|null)', content))
                if values:
                    value = draw.choice(values)
                    made[value.start() : value.end()] = draw.choice(WORDS).encode()
        if made != content:
            return bytes(made)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mutations") / "run"
    execute(resolve(SETTINGS), out)
    return out


READERS: list[Callable[[RunDirectory], object]] = [
    RunDirectory.summary, RunDirectory.rounds, RunDirectory.clients, RunDirectory.config,
    RunDirectory.load_meta, RunDirectory.newest_state, RunDirectory.audit, RunDirectory.references,
]  # fmt: skip


def files_of(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir() if not path.name.startswith("."))


def test_mutated_run_files_are_one_clear_error_or_harmless(
    finished: Path, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Four thousand, one file at a time; what a hash covers is never accepted."""
    record_property(SPOILED, True)
    run = shutil.copytree(finished, tmp_path / "run")
    draw, escaped, accepted = random.Random(0), [], []
    names = files_of(run)
    for number in range(4000):
        name = names[number % len(names)]
        original = (finished / name).read_bytes()
        content = mutated(original, draw)
        (run / name).write_bytes(content)
        directory, found = RunDirectory(run), False
        for read in (*READERS, verify):
            try:
                read(directory)
            except FedmamlError:
                found = found or read is verify
            except Exception as error:
                escaped.append((name, getattr(read, "__name__", ""), repr(error)))
        if name in HASHED and not found:
            accepted.append((name, number))
        (run / name).write_bytes(original)
    assert escaped == []
    assert accepted == []


@pytest.mark.parametrize(
    ("command", "count"),
    [(["show"], 400), (["show", "--verify"], 200), (["clock", "--profile", "4g-phone"], 200)],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_mutated_run_files_end_commands_in_one_line(
    command: list[str],
    count: int,
    finished: Path,
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    record_property(SPOILED, True)
    run = shutil.copytree(finished, tmp_path / "run")
    draw, names, escaped = random.Random(str(command)), files_of(run), []
    for number in range(count):
        name = names[number % len(names)]
        original = (finished / name).read_bytes()
        (run / name).write_bytes(mutated(original, draw))
        try:
            done = fedmaml(*command, "run", cwd=tmp_path)
        except Exception as error:
            escaped.append((name, number, repr(error)))
        else:
            assert done.returncode in (0, 1)
            assert done.returncode == 0 or done.stderr.count("fedmaml: ") >= 1
        (run / name).write_bytes(original)
    assert escaped == []


@pytest.mark.parametrize("name", [NEWEST, PREVIOUS])
def test_a_mutated_state_is_never_loaded(
    name: str, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """A thousand each, half of them in the header; the other state is used, and it is said."""
    record_property(SPOILED, True)
    run = tmp_path / "run"
    ran(run, client_app, {"strategy": "fedrep"})
    shutil.copyfile(run / NEWEST, run / PREVIOUS)
    content, draw = (run / name).read_bytes(), random.Random(name)
    if name == PREVIOUS:
        (run / NEWEST).unlink()
    end = 8 + int.from_bytes(content[:8], "little")
    for number in range(1000):
        header = number % 2 == 0
        changed = mutated(content[:end], draw) + content[end:] if header else mutated(content, draw)
        (run / name).write_bytes(changed)
        try:
            found = RunDirectory(run).newest_state()
        except FedmamlError:
            assert name == PREVIOUS
            continue
        assert name == NEWEST
        assert list(found.damaged) == [NEWEST]


def test_a_sealed_file_is_opened_as_it_was_written_or_not_at_all(finished: Path) -> None:
    """Two thousand mutations of a file as nodes keep a memory in."""
    tensors, texts, _ = unseal((finished / NEWEST).read_bytes())
    some = dict(list(tensors.items())[:2])
    content = b"".join(seal(some, {"round": "3", "base": "0123456789abcdef"})[0])
    assert list(unseal(content)[0]) == list(some)
    draw = random.Random(1)
    for _number in range(2000):
        with pytest.raises(ValueError, match=r"SHA-256|Error"):
            unseal(mutated(content, draw))
    assert texts["config"]


# --- replies -------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    -1, 0, 2**62, -(2**62), 1.5, float("nan"), float("inf"), "", "x", b"", [], [0], [-1],
    [float("nan")], ["x"], [1, 1], [2**62], ["[1, 2]", "{"], [0.5, 0.5], True,
)  # fmt: skip


def copied(records: RecordDict) -> RecordDict:
    """Return a copy with arrays of its own."""
    arrays = {
        name: Array(a.dtype, tuple(a.shape), a.stype, bytes(a.data))
        for name, a in records.array_records["update"].items()
    }
    copies = {name: copy.deepcopy(records[name]) for name in ("metrics", "reply")}
    return RecordDict({"update": ArrayRecord(arrays), **copies})


def other(records: RecordDict, draw: random.Random) -> None:
    """Change one thing in the records of a reply."""
    name = draw.choice(list(records))
    record = records[name]
    key = draw.choice(list(record)) if record else ""
    what = draw.randrange(10)
    if what == 0:
        del records[name]
    elif what == 1 and key:
        del record[key]
    elif what == 2 and key:
        record["other"] = record[key]
    elif name == "update" and key:
        array: Any = record[key]
        match draw.randrange(4):
            case 0:
                array.data = mutated(array.data, draw)
            case 1:
                array.shape = draw.choice(((), (1,), (2**40,), (-1,), (1, 1, 2410), (0, 2410)))
            case 2:
                array.dtype = draw.choice(("float64", "int8", "object", "", "float32x"))
            case 3:
                array.stype = draw.choice(("", "pickle", "numpy.ndarrays"))
    elif key:
        for value in draw.sample(VALUES, len(VALUES)):
            try:
                record[key] = value
            except (TypeError, ValueError):
                continue  # Flower's record holds no such value, so no message can
            return


@pytest.mark.parametrize(
    "settings",
    [{}, {"compression.method": "top-k"}, {"compression.method": "qsgd-4"}],
    ids=["whole", "top-k", "qsgd-4"],
)
def test_mutated_replies_are_left_out_or_read_and_end_no_round(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thousand each, of one client: a traceback would end this test."""
    kept: list[tuple[Message, Any, Message]] = []
    step = FlowerStrategy.step

    def caught(self: FlowerStrategy, number: int, replies: Any) -> Any:
        arrived = list(replies)
        kept.append((*self._train_sent[0], arrived[0]))
        return step(self, number, arrived)

    monkeypatch.setattr(FlowerStrategy, "step", caught)

    ran(tmp_path / "run", client_app, {"strategy": "fomaml", "rounds": 1, **settings})
    message, request, reply = kept[0]
    draw, left_out = random.Random(json.dumps(settings)), 0
    whole = read_train_reply(copied(reply.content), request)
    for number in range(1000):
        changed = Message(copied(reply.content), reply_to=message)
        other(changed.content, draw)
        sound, rejected = read_all(read_train_reply, [(message, request)], [changed])
        assert len(sound) + len(rejected) == 1, number
        left_out += len(rejected)
        for _node, answer in sound:  # what changed says nothing, as the name of a serialiser
            assert repr(replace(answer, update={})) == repr(replace(whole, update={})), number
            for group, value in answer.update.items():
                written = whole.update[group]
                assert torch.equal(
                    getattr(value, "limbs", value), getattr(written, "limbs", written)
                )
    assert left_out > 900
