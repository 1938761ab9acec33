"""One table, drawn in five ways: each escapes what it would else read as its own marks."""

import csv
import io
from dataclasses import FrozenInstanceError

import pytest
from rich.console import Console

from fedmaml.comparison.cells import SIGNS
from fedmaml.comparison.verdicts import Verdict
from fedmaml.tables.latex import to_latex
from fedmaml.tables.table import Table, on_terminal, to_csv, to_markdown

TABLE = Table(
    "what [m/s]",
    ("name", "loss [K]", "verdict"),
    (("a|b_1 & <c>", "-1.5", "50 %"), ("[red]d[/red], e", "–", "<.001")),
    (0, 2),
    ("green", None),
)


def shown(table: Table, width: int, *, colours: bool = False, **options: object) -> list[str]:
    text = io.StringIO()
    system = "standard" if colours else None
    console = Console(file=text, width=width, force_terminal=colours, color_system=system,
                      highlight=False)  # fmt: skip
    console.print(on_terminal(table, **options))  # type: ignore[arg-type]
    return text.getvalue().splitlines()


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TABLE.caption = "other"  # type: ignore[misc]


def test_square_brackets_are_text_on_the_terminal() -> None:
    title, _, head, _, first, second, *_ = shown(TABLE, 80)
    assert title.strip() == "what [m/s]"
    assert "loss [K]" in head
    assert "a|b_1 & <c>" in first
    assert "[red]d[/red], e" in second


def test_numbers_are_to_the_right_and_rows_have_their_colour() -> None:
    first, second = shown(TABLE, 80)[4:6]
    assert first.index("-1.5") + 3 == second.index("–")
    assert first.index("50 %") == second.index("<.001")
    first, second = shown(TABLE, 80, colours=True)[4:6]
    assert "\x1b[32m" in first
    assert "\x1b[" not in second


def test_only_the_columns_that_wrap_give_way() -> None:
    table = Table("", ("name", "number"), (("a name of four words", "123456789"),))
    lines = [line.strip() for line in shown(table, 24)]
    assert any(line.endswith("123456789") for line in lines)
    assert not any("a name of four words" in line for line in lines)
    kept = shown(table, 24, wrap=(1,))
    assert any("a name of four" in line for line in kept)
    wide = Table("", ("name", "a long head"), (("x", "12"),))
    assert any(line.split() == ["name", "head"] for line in shown(wide, 16, folded=True))


def test_markdown_escapes_bars_and_aligns_numbers() -> None:
    assert to_markdown(TABLE) == [
        "| name | loss [K] | verdict |",
        "|---|---:|---|",
        r"| a\|b_1 & <c> | -1.5 | 50 % |",
        "| [red]d[/red], e | – | <.001 |",
    ]


def test_csv_reads_back() -> None:
    quoted = Table("", ("a,b", "c"), (('say "so"', "x\ny"), ("", "1")))
    assert tuple(map(tuple, csv.reader(io.StringIO(to_csv(quoted))))) == (
        quoted.header, *quoted.rows,
    )  # fmt: skip
    assert to_csv(TABLE).splitlines()[2] == '"[red]d[/red], e",–,<.001'


def test_latex_escapes_its_commands_and_typesets_numbers() -> None:
    assert to_latex(TABLE) == [
        r"\begin{tabular}{lrl}",
        r"\toprule",
        r"name & loss [K] & verdict \\",
        r"\midrule",
        r"a|b\_1 \& $<$c> & $-1.5$ & 50 \% \\",
        r"[red]d[/red], e & -- & $<$.001 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert r"\{\$\#\}" in "".join(to_latex(Table("", ("{$#}",), ())))


def test_the_page_escapes_html_and_has_true_minus_signs() -> None:
    pytest.importorskip("jinja2")
    from fedmaml.report.page import environment

    module = environment().get_template("table.html.j2").module
    page = str(module.table_of(TABLE))  # type: ignore[attr-defined]
    assert '<th scope="row">a|b_1 &amp; &lt;c&gt;</th>' in page
    assert "<c>" not in page
    assert '<td class="figure" data-head="loss [K]">\N{MINUS SIGN}1.5</td>' in page
    assert '<td class="words" data-head="verdict">50 %</td>' in page
    assert page.count("what [m/s]") == 3


def test_every_verdict_has_one_sign() -> None:
    assert set(SIGNS) == set(Verdict.__args__)  # type: ignore[attr-defined]
