"""What a run says of leakage, and what the command says and ends with."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from fedmaml import auditing, cli, config, running
from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.audit import audited
from fedmaml.server.cohort import RollCall
from fedmaml.simulations.backends import in_process
from fedmaml.simulations.scenarios.quadratic import Quadratic

FAST = {"rounds": 2, "strategy": "fomaml"}


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function: the arguments -> exit code, standard output, standard error."""

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedmaml", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code), said.out, said.err

    return called


def test_a_run_says_in_its_summary_what_was_found_and_looked_at(tmp_path: Path) -> None:
    summary = running.execute(config.resolve({"scenario": "quadratic"} | FAST), tmp_path / "run")
    audit = auditing.audit_from_json(summary["audit"])
    assert [(f.kind, f.severity) for f in audit.findings] == [
        ("support-query-overlap", "leak")
    ] * 2  # training and test
    assert {check.kind for check in audit.checked} == set(auditing.KINDS)
    assert summary["clients_test"] == 8  # the run goes on


def test_a_run_tells_by_whom_it_asked_and_evaluated(tmp_path: Path, data_dir: Path) -> None:
    layer = {"scenario": "hospitals", "data_dir": str(data_dir), "clients": 1} | FAST
    run = config.resolve(layer)
    summary = running.execute(run, tmp_path / "run")
    (finding,) = [
        finding for finding in summary["audit"]["findings"]
        if finding["kind"] == "test-clients-in-training"
    ]  # fmt: skip
    assert len(finding["clients"]) <= 2
    assert finding["detail"] == (
        f"{len(finding['clients'])} of 4 clients of split 'test' were asked in training "
        "(of 2 rounds)"
    )


def test_without_rounds_nobody_was_asked(tmp_path: Path, data_dir: Path) -> None:
    layer = {"scenario": "hospitals", "data_dir": str(data_dir), "strategy": "local"}
    layer["inner.steps"] = 1
    summary = running.execute(config.resolve(layer), tmp_path / "run")
    assert "test-clients-in-training" not in {f["kind"] for f in summary["audit"]["findings"]}


def test_a_server_without_data_says_what_it_could_not_check(tmp_path: Path) -> None:
    run = config.resolve({"scenario": "quadratic"} | FAST)
    directory = RunDirectory(tmp_path / "run")
    directory.create(run)
    in_process.run(running.APPS, config.to_run_config(run, directory.path), run.nodes)
    audit = directory.summary()["audit"]
    assert [check["kind"] for check in audit["checked"]] == ["test-clients-in-training"]
    missing = {entry["kind"]: entry["why"] for entry in audit["not_checked"]}
    assert set(missing) == set(auditing.KINDS) - {"test-clients-in-training"}
    assert all(why.startswith("the data are not on the server") for why in missing.values())


def test_statistics_of_clients_that_do_not_train_are_found(tmp_path: Path) -> None:
    run = config.resolve({"scenario": "quadratic"} | FAST)
    hosts = {7: {"train": range(8), "test": range(8, 16)}}
    directory = RunDirectory(tmp_path)
    sums = {"sum": torch.ones(1)}
    sound = audited(run, RollCall(hosts, sums, statistics_from=(0, 7)), directory)
    assert sound.findings == ()
    (finding,) = audited(run, RollCall(hosts, sums, statistics_from=(0, 9)), directory).findings
    assert finding.kind == "statistics-from-test-data"
    assert finding.clients == (9,)


def test_an_audit_that_raises_stops_no_run(tmp_path: Path, monkeypatch, caplog) -> None:
    def broken(*_: object) -> None:
        raise ValueError("something unforeseen")

    monkeypatch.setattr(running, "audit_data", broken)
    summary = running.execute(config.resolve({"scenario": "quadratic"} | FAST), tmp_path / "run")
    assert {entry["why"] for entry in summary["audit"]["not_checked"]} == {
        "the audit raised ValueError"
    }
    assert "the leakage audit failed" in caplog.text


def test_a_damaged_audit_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text('{"findings": 3}')
    with pytest.raises(RunDirectoryError, match=r"audit\.json in .* is damaged"):
        RunDirectory(tmp_path).audit()


def test_an_audit_of_a_run_takes_no_time_to_speak_of() -> None:
    run = config.resolve({"scenario": "digits"})
    parts = run.make_scenario(), run.make_strategy(), run.make_problem()
    auditing.audit_data(*parts, run.seed, auditing.IN_A_RUN)  # reads the data
    started = time.process_time()
    auditing.audit_data(*parts, run.seed, auditing.IN_A_RUN)
    assert time.process_time() - started < 0.3  # 0.053 s where measured


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def unexpected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has said that the leak of `quadratic` is meant."""
    monkeypatch.setattr(Quadratic, "expected", {})


@pytest.mark.usefixtures("unexpected")
def test_a_leak_ends_the_command_with_1_and_names_cause_and_cure(command) -> None:
    code, said, _ = command("audit", "quadratic")
    assert code == 1
    assert "leak: support-query-overlap" in said
    assert "48 of 48 query examples" in said
    assert "what to do: cut one permutation" in said


def test_a_sound_scenario_ends_the_command_with_0(command) -> None:
    code, said, _ = command("audit", "digits", "--strategy", "protonet", "--json")
    assert code == 0
    audit = json.loads(said)
    assert audit["findings"] == []
    assert {check["kind"] for check in audit["checked"]} == set(auditing.KINDS)
    assert "ProtoNet.adapt" in audit["checked"][-1]["how"]


def test_notes_alone_end_the_command_with_0(command, data_dir: Path) -> None:
    code, said, _ = command("audit", "hospitals", "--data-dir", str(data_dir), "--json")
    assert code == 0
    assert {finding["severity"] for finding in json.loads(said)["findings"]} == {"note"}


def test_a_sample_as_large_as_asked_for(command) -> None:
    code, said, _ = command("audit", "sinusoid", "--clients", "7", "--json")
    assert code == 0
    audit = json.loads(said)
    sizes = {
        (check["clients"], check["of"]) for check in audit["checked"]
        if check["kind"] == "support-query-overlap"
    }  # fmt: skip
    assert sizes == {(7, 1_000_000), (7, 100), (7, 600)}
    assert audit["not_checked"]


def test_what_a_scenario_expects_is_one_line_of_the_command_and_no_alarm(command) -> None:
    code, said, _ = command("audit", "quadratic")
    assert code == 0
    (line,) = [line for line in said.splitlines() if line.startswith("expected: ")]
    assert line.startswith("expected: support-query-overlap: a task is a function")
    assert "what to do" not in said
    assert said.splitlines()[-1] == "2 found, as expected"
    code, said, _ = command("audit", "quadratic", "--json")
    assert code == 0
    found = json.loads(said)["findings"]
    assert [(f["kind"], f["severity"]) for f in found] == [("support-query-overlap", "leak")] * 2
    assert all(f["expected"].startswith("a task is a function") for f in found)


def test_a_run_is_silent_about_what_is_expected_and_its_summary_is_not(
    command, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, said = command("run", "quadratic", "--rounds", "1", "--out", "x")
    assert "audit" not in said
    findings = json.loads((tmp_path / "x" / "summary.json").read_text())["audit"]["findings"]
    assert len(findings) == 2
    assert all(finding["expected"] for finding in findings)


def test_what_is_found_beside_the_expected_still_speaks_up(
    command, tmp_path: Path, monkeypatch
) -> None:
    """Test clients that train are found by the server, a leak of another kind in the data."""
    train = {"train": range(8), "validation": range(0), "test": range(4, 12)}
    monkeypatch.setattr(Quadratic, "clients", lambda _: train)
    code, said, _ = command("audit", "quadratic")
    assert code == 1
    assert "\nleak: test-examples-in-training\n" in said
    assert said.splitlines()[-1].endswith(" 2 of them expected, 2 of the others more than notes")
    monkeypatch.chdir(tmp_path)
    _, _, said = command("run", "quadratic", "--rounds", "1", "--out", "x")
    before, by_server = [line for line in said.splitlines() if line.startswith("audit")]
    assert "test-examples-in-training (leak)" in before
    assert "support-query-overlap" not in before
    assert by_server.startswith("audit: test-clients-in-training (leak): see audit in ")


@pytest.mark.usefixtures("unexpected")
def test_a_run_prints_one_line_and_how_to_learn_more(command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, said = command("run", "quadratic", "--rounds", "1", "--out", "x")
    (line,) = [line for line in said.splitlines() if line.startswith("audit")]
    assert line == "audit: support-query-overlap (leak): fedmaml audit --config x/config.toml"
    code, said, _ = command("audit", "--config", "x/config.toml", "--json")
    assert code == 1
    assert len(json.loads(said)["findings"]) == 2
