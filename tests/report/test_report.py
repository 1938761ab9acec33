"""Reports: what they say, what they hold, and what they refuse."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedmaml import report
from fedmaml.cli import app
from fedmaml.comparison.comparing import run_all
from fedmaml.comparison.planning import plan
from fedmaml.config import load_toml, parse_assignment, resolve
from fedmaml.core.errors import ConfigurationError, NotComparableError, RunDirectoryError
from fedmaml.report import Written, figures, integrity, series, tables, write_report
from fedmaml.report.inline import finished
from fedmaml.report.page import render
from fedmaml.report.reading import find_runs, read
from fedmaml.report.reproduce import compare_command
from fedmaml.running import execute
from tests.report.conftest import SETTINGS

COMMAND = [sys.executable, "-m", "fedmaml.cli"]


class Reader(HTMLParser):
    """Collects text, ids and everything that could make a browser fetch something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[str(value)] += 1
            if name in ("href", "xlink:href", "src", "srcset", "action"):
                self.links.append(str(value))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def page(written: Written) -> str:
    return written.page.read_text()


def text_of(page: str) -> str:
    return " ".join("".join(Reader(page).text).split())


# --- the page


def test_answer_comes_first_and_says_that_meta_learning_is_not_better(page: str) -> None:
    words = text_of(page[page.index("<body>") :])
    headline = "No meta-learning strategy is significantly better than fine-tuned FedAvg."
    assert words.startswith(f"fedmaml report · digits {headline}")
    assert "how large an advantage could still be hidden" in words
    for sentence in (
        "FOMAML is not distinguishable from fine-tuned FedAvg: accuracy",
        "2 seeds are",
    ):
        assert sentence in words


def test_everything_that_a_report_must_hold_is_there(page: str) -> None:
    words = text_of(page)
    for part in (
        "What was run", "digits: handwritten digits", "95 % interval",
        "worst decile", "std. deviation", "not measured", "No reply was rejected.",
        "Leakage audit None of the leaks below was found. Searched for:",
        "query examples that are in the support set of their own task", "SHA-256",
        "Accuracy against rounds",
        "every line takes the same bytes sent and received", "Accuracy against operations",
        "Training loss against rounds", "Accuracy against adaptation steps",
        "Accuracy against shots", "Accuracy from client to client",
        "Grey dashed lines are references on the whole support", "nearest neighbour",
        "Accuracy of each client: FOMAML against fine-tuned FedAvg",
    ):  # fmt: skip
        assert part in words, part


def test_page_fetches_nothing_and_has_no_script(page: str) -> None:
    read_page = Reader(page)
    assert read_page.tags["script"] == 0
    assert read_page.links
    for link in read_page.links:
        assert link.startswith(("#", "data:,")), link
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) == {"#"}


def test_ids_are_unique_and_references_have_a_target(page: str) -> None:
    read_page = Reader(page)
    assert set(read_page.ids.values()) == {1}
    targets = {link[1:] for link in read_page.links if link.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(read_page.ids)


def test_every_figure_has_words_for_those_who_do_not_see_it(page: str) -> None:
    drawings = re.findall(r"<svg[^>]*>", page)
    described = [drawing for drawing in drawings if "aria-hidden" not in drawing]
    assert len(described) == page.count("<figure ")
    for drawing in described:
        assert 'role="img"' in drawing
        label = re.search(r'aria-label="([^"]+)"', drawing).group(1)
        assert "FOMAML" in label
        assert re.search(r"\d", label)


def test_the_same_runs_give_the_same_bytes(
    compared: Path, written: Written, tmp_path: Path
) -> None:
    again = write_report([compared], tmp_path)
    assert again.page.read_bytes() == written.page.read_bytes()
    for ours, theirs in zip(again.figures, written.figures, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_figures_lie_beside_the_page_as_svg_and_png(written: Written) -> None:
    equal = {f"{kind}-bytes" for kind in ("validation", "loss", "pareto")}
    without = equal | {"cells-*", "groups-*"}  # digits has neither
    assert {path.stem for path in written.figures} == set(figures.NAMES) - without
    for path in written.figures:
        assert path.parent == written.page.parent / "figures"
        start = b"<svg" if path.suffix == ".svg" else b"\x89PNG"
        assert path.read_bytes().startswith(start)


def test_the_command_on_the_page_makes_these_runs(compared: Path) -> None:
    material = read([compared])
    words = shlex.split(compare_command(material))
    assert words[:3] == ["fedmaml", "compare", "digits"]
    given = list(zip(words[3::2], words[4::2], strict=True))
    options = dict(given)
    layers = [parse_assignment(value) for key, value in given if key == "--set"]
    names, seeds, rounds = options["--strategies"], options["--seeds"], options["--rounds"]
    planned = plan("digits", names.split(","), int(seeds), layers, int(rounds))
    before = {path: path.stat().st_mtime_ns for path in compared.rglob("summary.json")}
    run_all(planned, compared)  # other settings would be refused, missing runs made
    assert {path: path.stat().st_mtime_ns for path in compared.rglob("summary.json")} == before


def test_a_setting_of_one_strategy_is_in_the_command(compared: Path, tmp_path: Path) -> None:
    shutil.copytree(compared, tmp_path, dirs_exist_ok=True)
    for config in (tmp_path / "fomaml").glob("*/config.toml"):
        config.write_text(config.read_text().replace("lr = 0.2", "lr = 0.19"))
    words = shlex.split(compare_command(read([tmp_path])))
    assert "fomaml:inner.lr=0.19" in words
    assert not any(word.startswith("inner.lr=") for word in words)


def test_no_command_is_reported_that_would_make_other_runs(compared: Path, tmp_path: Path) -> None:
    shutil.copytree(compared, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "fedadam")  # which the command would make
    material = read([tmp_path])
    assert compare_command(material) == ""
    assert "repeats all of these runs" not in text_of(render(material, []))


def test_baselines_alone_give_a_headline_of_their_own(compared: Path) -> None:
    words = text_of(render(read([compared / "fedavg", compared / "local"]), []))
    assert "No meta-learning strategy was compared with fine-tuned FedAvg." in words
    assert "how large an advantage could still be hidden" not in words


def test_the_settings_on_the_page_give_the_run_again(compared: Path, page: str) -> None:
    own = load_toml(compared / "fomaml" / "seed0" / "config.toml")
    assert resolve(own).strategy == "fomaml"
    assert (compared / "fomaml" / "seed0" / "config.toml").read_text() in "".join(Reader(page).text)


# --- other runs


def test_a_single_run_is_reported_without_comparison(compared: Path) -> None:
    material = read([compared / "fomaml" / "seed1"])
    assert material.comparison is None
    drawn = [finished(drawing) for drawing in figures.draw(material)]
    assert {figure.drawing.section for figure in drawn} == {
        "validation",
        "loss",
        "adaptation",
        "clients",
    }
    words = text_of(render(material, drawn))
    assert "FOMAML on digits: accuracy 0." in words
    assert "This is a single run, so there is nothing to compare it with" in words


def test_runs_without_the_reference_stand_beside_each_other(compared: Path) -> None:
    material = read([compared / "fomaml", compared / "local"])
    words = text_of(render(material, []))
    assert "4 runs on digits, not compared." in words
    assert "there is no run of fedavg, with which every strategy is compared" in words
    assert list(material.runs) == ["local", "fomaml"]


def test_runs_of_a_strategy_with_other_settings_are_lines_of_their_own(
    compared: Path, tmp_path: Path
) -> None:
    shutil.copytree(compared, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "fomaml" / "seed1" / "config.toml"
    config.write_text(config.read_text().replace("lr = 0.2", "lr = 0.1"))
    material = read([tmp_path])
    assert list(material.runs) == [
        "local", "fedavg", "fedadam", "fomaml · seed0", "fomaml · seed1",
    ]  # fmt: skip
    assert "with different settings (inner.lr = 0.1 and 0.2)" in material.why_not


def test_rejected_replies_and_audit_findings_are_reported(compared: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared / "fomaml" / "seed0", tmp_path / "run")
    rejection = {"reason": "NONFINITE", "detail": "<b>nan</b>", "node": "1", "clients": [3, 4]}
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    lines[1]["rejected"] = [rejection]
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((run / "summary.json").read_text())
    finding = {"kind": "overlap", "severity": "leak", "detail": "2 examples",
               "cure": "split again", "clients": [3]}  # fmt: skip
    audit = {
        "findings": [finding],
        "checked": [
            {"kind": kind, "clients": 6, "of": 6, "how": "all of them"}
            for kind in ("overlap", "duplicates")
        ],
        "not_checked": [
            {"kind": "statistics", "why": "there are none"},
            {"kind": "duplicates", "why": "a sample"},
        ],
    }
    (run / "summary.json").write_text(json.dumps(summary | {"audit": audit, "rejected_replies": 2}))
    material = read([run])
    assert integrity.rejected(material).rows == (
        ("FOMAML", "NONFINITE", "the update holds NaN or infinity", "<b>nan</b>", "2", "1"),
    )
    page = render(material, [])
    assert "&lt;b&gt;nan&lt;/b&gt;" in page
    words = text_of(page)
    assert "2 updates were left out of training" in words
    assert "The audit has findings" in words
    row = ("FOMAML", "leak", "overlap", "2 examples", "split again", "1")
    assert integrity.audit(material).findings.rows == (row,)
    assert (
        "Searched for: overlap; duplicates, in part (a sample). Not searched for: statistics "
        "(there are none)." in words
    )


def test_clients_of_a_further_family_are_counted_apart(compared: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared / "fomaml" / "seed0", tmp_path / "run")
    lines = [json.loads(line) for line in (run / "clients.jsonl").read_text().splitlines()]
    *own, far = lines
    own_mean = sum(line["accuracy:after"] for line in own) / len(own)
    far |= {"family": "rare", "accuracy:after": 99.0}
    (run / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((run / "summary.json").read_text())
    summary["families"] = {"": len(own), "rare": 1}
    (run / "summary.json").write_text(json.dumps(summary))
    material = read([run])
    assert tables.outcomes(material).rows[0][-1] == str(len(own))
    (spread,) = series.spreads(material).values()
    assert len(spread.values) == len(own)
    assert spread.mean == pytest.approx(own_mean)
    assert "1 of family rare among them: these count in no mean" in text_of(render(material, []))


def test_expected_findings_are_shown_with_their_reason_and_are_no_alarm(
    compared: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(compared / "fomaml" / "seed0", tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    finding = {"kind": "overlap", "severity": "leak", "detail": "2 examples", "cure": "split again",
               "clients": [3], "expected": "by design"}  # fmt: skip
    summary["audit"]["findings"] = [finding]
    (run / "summary.json").write_text(json.dumps(summary))
    material = read([run])
    row = ("FOMAML", "expected", "overlap", "2 examples", "nothing: by design", "1")
    assert integrity.audit(material).findings.rows == (row,)
    assert "The audit has findings" not in render(material, [])


@pytest.fixture(scope="module")
def on_validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that left the test clients unseen."""
    out = tmp_path_factory.mktemp("validation") / "run"
    settings = {"evaluation.split": "validation", "evaluation.every": 1, "clients": 10}
    execute(resolve({"scenario": "digits", "strategy": "fomaml", "rounds": 2}, settings), out)
    return out


def test_words_follow_the_split_that_was_evaluated(on_validation: Path, tmp_path: Path) -> None:
    page = write_report([on_validation], tmp_path / "r.html").page.read_text()
    words = text_of(page)
    unseen = "test clients are left unseen (evaluation.split)"  # so says the audit
    assert unseen in words
    assert "test client" not in words.lower().replace(unseen, "")
    assert "of validation clients, after they adapted" in words
    assert "60 train, 20 are evaluated in each run" in words
    assert "Means over the validation clients, before and after adapting" in words
    assert "Thick bars hold the middle half of the validation clients" in words
    outcomes = tables.outcomes(read([on_validation]))
    assert outcomes.header[-1] == "validation clients"
    assert outcomes.rows[0][-1] == "20"
    drawn = {drawing.name: drawing for drawing in figures.draw(read([on_validation]))}
    assert "of a validation client" in finished(drawn["clients"]).svg


def test_groups_and_cells_have_their_sentences_on_the_page(compared: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared / "fomaml" / "seed0", tmp_path / "run")
    rows = [json.loads(line) for line in (run / "clients.jsonl").read_text().splitlines()]
    for place, row in enumerate(rows):
        row["groups"] = {"hand": ("left", "right")[place % 2]}
        row |= {f"by_class/{cell}:{stage}": 0.5 for cell in range(4)
                for stage in ("before", "shots@1", "after")}  # fmt: skip
    (run / "clients.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report([run]).page.read_text()
    words = text_of(page)
    assert "Means over the clients of a group, then over seeds" in words
    assert "Accuracy after adaptation by hand" in words
    assert "Cells of a metric at the same stages" in words
    assert set(Reader(page).ids.values()) == {1}
    assert {path.stem for path in (run / "figures").glob("*-*.svg")} >= {
        "groups-hand", "cells-by-class-shots",
    }  # fmt: skip


def test_runs_evaluated_on_different_splits_are_not_said_to_be_on_one(
    on_validation: Path, compared: Path
) -> None:
    material = read([on_validation, compared / "fomaml" / "seed0"])
    assert material.evaluated == "evaluated"
    assert tables.outcomes(material).header[-1] == "evaluated clients"
    assert "Means over the evaluated clients" in text_of(render(material, []))


def test_clients_that_gave_no_answer_are_counted_in_their_split(
    on_validation: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(on_validation, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"clients_asked": 23}))
    words = text_of(render(read([run]), []))
    assert "3 of 23 validation clients gave no usable answer" in words


def test_energy_is_reported_where_all_runs_measured_it(compared: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(compared / "fomaml", tmp_path / "fomaml")
    for joules, reported in ((2000.0, "not measured"), (4000.0, "3.00 kJ")):
        file = folder / f"seed{int(joules > 3000)}" / "summary.json"
        summary = json.loads(file.read_text())
        summary["cost"]["energy"] = {"joules": joules, "sensors": ["package-0"], "note": ""}
        file.write_text(json.dumps(summary))
        assert tables.cost(read([folder])).rows[0][-1] == reported


def test_a_clean_audit_says_so(compared: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared / "fomaml" / "seed0", tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    check = {"kind": "overlap", "clients": 6, "of": 6, "how": "all of them"}
    clean = {"findings": [], "checked": [check], "not_checked": []}
    (run / "summary.json").write_text(json.dumps(summary | {"audit": clean}))
    assert "None of the leaks below was found. Searched for: overlap." in text_of(
        render(read([run]), [])
    )


# --- what is refused


def test_directories_without_runs_are_reported(compared: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "deeper").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for name, message in (
        ("empty", r"empty is empty; runs are made by `fedmaml run SCENARIO --out DIR`"),
        ("other", r"other holds no run \(no config.toml in it, nor in folders up to two levels"),
        ("nowhere", r"nowhere does not exist; give run directories, or a folder of them"),
        ("file", r"file is a file; give run directories"),
    ):
        with pytest.raises(RunDirectoryError, match=message):
            find_runs(tmp_path / name)
    assert len(find_runs(compared)) == 8


def test_runs_of_two_scenarios_are_refused(compared: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared / "fomaml" / "seed0", tmp_path / "run")
    (run / "config.toml").write_text(
        (run / "config.toml").read_text().replace('"digits"', '"sinusoid"')
    )
    message = r"the runs are of 2 scenarios \(.* holds digits, .*run holds sinusoid\)"
    with pytest.raises(NotComparableError, match=message):
        write_report([compared, run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["summary.json", "clients.jsonl", "rounds.jsonl"])
def test_a_run_cut_short_is_named_with_its_file(compared: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(compared, tmp_path / "c")
    file = tmp_path / "c" / "fomaml" / "seed1" / name
    file.unlink() if name == "summary.json" else file.write_text(file.read_text()[:300])
    with pytest.raises(RunDirectoryError, match=rf"seed1 is not complete: .*{name}.*--force"):
        write_report([tmp_path / "c"])


def test_missing_libraries_are_named(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_NEEDED", ("jinja2", "no_such_library"))
    message = r"no_such_library is not installed: pip install 'fedmaml\[report\]'"
    with pytest.raises(ConfigurationError, match=message):
        write_report([compared], tmp_path)


def test_compare_says_why_there_is_no_report(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_NEEDED", ("no_such_library",))
    arguments = ["compare", "digits", "--strategies", "fomaml", "--seeds", "2", "--rounds", "2"]
    for key, value in SETTINGS.items():
        arguments += ["--set", f"{key}={value}"]
    out = shutil.copytree(compared, tmp_path / "c")
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    wanted = "No report: no_such_library not installed (pip install 'fedmaml[report]')"
    assert done.output.splitlines()[-1] == wanted
    assert (out / "comparison.md").exists()
    assert not (out / "report.html").exists()


def test_what_is_wrong_with_the_runs_is_reported_before_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(RunDirectoryError, match="nowhere does not exist"):
        write_report([tmp_path / "nowhere"], tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_nothing_is_overwritten_without_force(compared: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared / "local" / "seed0", tmp_path / "run")
    (run / "figures").mkdir()
    stale, own = run / "figures" / "differences.svg", run / "figures" / "own.svg"
    grouped = run / "figures" / "groups-hospital.png"
    for earlier in (stale, grouped):
        earlier.write_text("of an earlier report")
    own.write_text("of somebody else")
    (run / "report.html").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"are there already: .*--out, .*--force"):
        write_report([run])
    assert (run / "report.html").read_text() == "mine"
    assert write_report([run], force=True).page == run / "report.html"
    assert not stale.exists()
    assert not grouped.exists()
    assert own.exists()


def test_out_must_be_a_page_or_a_folder(compared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"names neither a folder that exists nor a page"):
        write_report([compared], tmp_path / "report")


def test_command_prints_one_json_value_or_one_clear_line(compared: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "report", str(compared / "local" / "seed0"), "--out", "r.html"]
    good = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    reported = json.loads(good.stdout)
    assert (tmp_path / reported["page"]).exists()
    assert all((tmp_path / path).exists() for path in reported["figures"])
    assert good.stderr == ""
    bad = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert bad.returncode == 1
    assert bad.stderr.startswith(
        "fedmaml: RunDirectoryError: r.html and r-figures are there already"
    )
