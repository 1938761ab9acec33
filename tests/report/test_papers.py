"""Figures and tables for articles: size, fonts, numbers beside them, and what fits a column."""

import csv
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.textpath import TextToPath
from typer.testing import CliRunner

import fedmaml as fm
from fedmaml.cli import app
from fedmaml.core.errors import ConfigurationError, RunDirectoryError
from fedmaml.report import figures, series, write_figures
from fedmaml.report.inline import finished
from fedmaml.report.page import render
from fedmaml.report.papers import TABLES, style_of
from fedmaml.report.placing import _spread, limits_without
from fedmaml.report.reading import read
from fedmaml.tables.latex import em, to_float
from fedmaml.tables.table import Table

POINTS = 72


@pytest.fixture(scope="module")
def papers(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PDF files of 3.25 inches."""
    folder = tmp_path_factory.mktemp("papers")
    files = write_figures([compared], folder, width="3.25in", format="pdf")
    assert all(path.exists() for path in files)
    return folder


def test_every_figure_has_its_numbers_and_every_table_its_file(papers: Path) -> None:
    drawn = {path.stem for path in papers.glob("*.pdf")}
    assert {"differences", "validation-rounds", "pareto-flops", "clients"} <= drawn
    assert drawn <= set(figures.NAMES)
    assert {path.stem for path in papers.glob("*.csv")} == drawn
    assert {path.stem for path in papers.glob("*.tex")} == {f"table-{name}" for name in TABLES}


def test_pdf_has_the_width_and_embedded_truetype_fonts(papers: Path) -> None:
    for path in papers.glob("*.pdf"):
        content = path.read_bytes()
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", content)
        assert box is not None
        assert float(box[1]) == pytest.approx(3.25 * POINTS, abs=0.1)
        assert b"/FontFile2" in content  # TrueType, which Type 42 wraps
        assert b"/Type3" not in content
        assert b"STIXGeneral" in content


def test_numbers_beside_a_figure_are_those_of_the_runs(compared: Path, papers: Path) -> None:
    material = read([compared])
    rows = list(csv.DictReader((papers / "differences.csv").read_text().splitlines()))
    assert material.comparison is not None
    row = next(row for row in material.comparison.rows if row.strategy == "fomaml")
    own = next(one for one in rows if one["strategy"] == "fomaml")
    assert float(own["difference"]) == row.difference
    curves = series.validation(material, "rounds")
    found = list(csv.DictReader((papers / "validation-rounds.csv").read_text().splitlines()))
    mean = [float(one["mean"]) for one in found if one["strategy"] == "fomaml"]
    assert np.array_equal(mean, curves["fomaml"].mean)


def test_files_are_the_same_bytes_every_time_and_svg_needs_no_font(
    compared: Path, papers: Path, tmp_path: Path
) -> None:
    for path in write_figures([compared], tmp_path / "a", width="3.25in"):
        assert path.read_bytes() == (papers / path.name).read_bytes()
    for path in write_figures([compared], tmp_path / "b", format="svg", width="8.3cm"):
        if path.suffix == ".svg":
            assert "<text" not in path.read_text()
            assert f'width="{8.3 / 2.54 * POINTS:.4f}'.rstrip("0")[:9] in path.read_text()


def test_widths_and_names_that_are_unknown_are_refused_before_anything_is_read() -> None:
    for given, message in (
        ({"width": "wide"}, r"--width 'wide': give a number and a unit .* e\.g\. 3\.25in"),
        ({"width": "3in "[:1]}, "--width '3'"),
        ({"width": "1in"}, "from 2in to 20in"),
        ({"style": "poster"}, "--style 'poster': known: page, paper"),
        ({"format": "gif"}, "--format 'gif': known: pdf, svg, png"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            write_figures([Path("nowhere")], **given)  # type: ignore[arg-type]
    assert style_of("paper", "234pt").width == pytest.approx(234 / 72.27)


def test_nothing_is_overwritten_without_force_and_other_files_stay(
    compared: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(compared / "fomaml" / "seed0", tmp_path / "run")
    folder = tmp_path / "article"
    folder.mkdir()
    (folder / "mine.tex").write_text("mine")
    arguments = ["figures", str(run), "--out", str(folder), "--format", "svg"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{folder}: ")
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, RunDirectoryError)
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
    assert (folder / "mine.tex").read_text() == "mine"


def test_a_result_writes_its_figures(compared: Path, tmp_path: Path) -> None:
    files = fm.load(compared / "fomaml" / "seed0").figures(tmp_path / "f", format="svg")
    assert (tmp_path / "f" / "clients.svg") in files


# --- tables


def test_tables_have_caption_and_label_and_fit_the_column(papers: Path) -> None:
    for name in TABLES:
        text = (papers / f"table-{name}.tex").read_text()
        assert r"\begin{table}[t]" in text
        assert re.search(r"\\caption\{.{40,}\}", text)
        assert rf"\label{{tab:digits-{name}}}" in text
        assert r"\toprule" in text
        body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
        cells = [
            line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if "&" in line
        ]
        widths = [max(map(_computer_modern, column)) for column in zip(*cells, strict=True)]
        points = 8 if "footnotesize" in text else 7
        assert sum(widths) * points + 8 * len(widths) <= 3.25 * 72.27
    assert "FOMAML & " in (papers / "table-results.tex").read_text()


def _computer_modern(cell: str) -> float:
    """Return the width of a cell in the font of LaTeX, which matplotlib has, too; in ems."""
    text = cell.replace("$", "").replace("\\", "").replace("--", "-")
    return _width_in(text, "cmr10")


def _width_in(text: str, font: str) -> float:
    properties = FontProperties(fname=findfont(font), size=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # signs that the font lacks
        return TextToPath().get_text_width_height_descent(text, properties, ismath=False)[0] / 100


@pytest.mark.parametrize(
    "text",
    ["Meta-gradient descent", "Per-FedAvg (HF)", "WWWMMM", "+0.013 to +0.100", "9.64 kB",
     "mmm", "worst decile", "ill", "IIII", "(5)", "1e-05", "2,400 + 1,200", "F1", "std. dev"],
)  # fmt: skip
def test_estimated_widths_are_not_below_those_of_the_font(text: str) -> None:
    assert _width_in(text, "cmr10") <= em(text) <= 1.7 * _width_in(text, "cmr10")


def test_columns_that_do_not_fit_are_left_out_by_importance() -> None:
    table = Table("A, 5 %", ("name", "first", "second", "third"), (("a_b", "1", "-2.5", "x" * 90),))
    text = to_float(table, "tab:x", 3.25, ("second",))
    assert "% Left out, since they do not fit: third." in text
    assert r"\caption{A, 5 \%.}" in text
    assert r"name & first & second \\" in text
    assert r"a\_b & 1 & $-2.5$ \\" in text
    assert r"\begin{table*}" in to_float(table, "tab:x", 6.75)
    with pytest.raises(ConfigurationError, match=r"does not fit 2 in; give a larger --width"):
        to_float(Table("", ("name", "text"), (("a", "word " * 40),)), "tab:x", 2.0)


# --- axes and labels


def test_local_does_not_set_the_axis_but_sets_it_where_it_is_near() -> None:
    others = {"maml": (0.05, 0.08), "reptile": (-0.01, 0.0)}
    ends = limits_without("local", {**others, "local": (-0.37, -0.22)}, 0.0)
    assert ends is not None
    assert -0.02 < ends[0] < -0.01
    assert 0.08 < ends[1] < 0.1
    assert limits_without("local", {**others, "local": (-0.04, -0.02)}, 0.0) is None
    assert limits_without("local", {"local": (-0.04, -0.02)}) is None
    assert limits_without("local", others, 0.0) is None


def test_labels_keep_their_order_and_their_distance() -> None:
    placed = _spread([50.0, 50.0, 51.0, 99.0, 10.0], 12.0, 0.0, 100.0)
    assert min(np.diff(np.sort(placed))) >= 12 - 1e-9
    assert np.array_equal(np.argsort(placed, kind="stable"), [4, 0, 1, 2, 3])
    assert max(_spread([99.0, 99.0, 99.0], 12.0, 0.0, 100.0)) <= 100
    assert min(_spread([1.0, 1.0], 12.0, 0.0, 100.0)) >= 0
    assert _spread([], 12.0, 0.0, 100.0) == []


def test_points_that_are_equal_stand_beside_each_other(compared: Path) -> None:
    """Two strategies of the same cost and metric: both symbols and both names can be seen."""
    material = read([compared])
    points = {"fedavg": (2.0, 0.5), "fomaml": (2.0, 0.5), "fedadam": (5.0, 0.6)}
    drawing = figures._pareto(
        "flops", points, figures.looks_of(list(material.runs)), "accuracy", "higher"
    )
    assert drawing is not None
    svg = finished(drawing).svg
    used = re.findall(r'<use xlink:href="#pareto-flops-m\w+" x="([\d.]+)" y="([\d.]+)"', svg)
    symbols = sorted({(float(x), float(y)) for x, y in used})
    heights = [y for _, y in symbols]
    pairs = [(a, b) for a in symbols for b in symbols if a < b and a[1] == b[1]]
    assert any(6 < b[0] - a[0] < 10 for a, b in pairs), (symbols, heights)
    for name in ("FedAvg", "FOMAML", "FedAdam"):
        assert f">{name}</text>" in svg


def test_a_scale_that_orders_nothing_is_not_drawn_again(compared: Path) -> None:
    material = read([compared])  # one network, so that all send the same
    drawn = {drawing.name: drawing for drawing in figures.draw(material)}
    assert not {"validation-bytes", "loss-bytes", "pareto-bytes"} & drawn.keys()
    assert {"validation-flops", "loss-flops", "pareto-flops"} <= drawn.keys()
    assert "the same bytes sent and received" in drawn["validation-rounds"].title
    rounds, sent = (series.validation(material, scale) for scale in ("rounds", "bytes"))
    each = series.per_round(sent, rounds)
    assert each is not None
    first = material.runs["fomaml"][0].rounds[0]["cost"]
    assert each == first["payload_bytes_down"] + first["payload_bytes_up"]
    assert series.per_round(series.validation(material, "flops"), rounds) is None


def test_panels_share_one_legend_and_the_page_has_its_own_colours(compared: Path) -> None:
    material = read([compared])
    drawn = [finished(one) for one in figures.draw(material) if one.section in ("loss", "clients")]
    page = render(material, drawn)
    assert page.count('<div class="legend">') == 1
    panels = re.findall(r'<figure id="figure-loss[^"]*">.*?</figure>', page, re.DOTALL)
    assert len(panels) == 2
    assert not any("legend" in panel for panel in panels)
    assert all("legend" in one.svg for one in drawn if one.drawing.section == "loss")
    assert "var(--ink, #1c1c1c)" in page
    assert not re.search(r"(?<!, )#0b5fa5", page[page.index("<body>") :])
    assert "prefers-color-scheme: dark" in page
