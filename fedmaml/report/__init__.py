"""One HTML page of results, made from run directories alone.

    reading       directories -> runs and their comparison
    series        runs -> the numbers of every figure
    figures       numbers -> drawings, on a `canvas`        matplotlib
    adaptation    the metric against steps and shots
    cells         a metric's cells against steps and shots
    pairs         every client, under two strategies
    groups        runs -> the numbers of groups of clients, drawn by `forest`
    pictures      drawings that lie beside the runs
    placing       points and labels that would hide each other
    inline        drawings -> SVG in the page
    papers        drawings and tables -> files for articles
    learning      numbers -> one figure for Python
    tables        runs -> the cells of tables
    integrity     runs -> rejected updates and audit findings
    reproduce     runs -> the commands that repeat them
    page          all of it -> one HTML file                jinja2, page.html.j2, page.css

The same runs give the same bytes. Both libraries come with the extra ``report``.
"""

import importlib.util
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fedmaml.comparison.conclusions import Comparison
from fedmaml.core.errors import ConfigurationError, RunDirectoryError
from fedmaml.runs.showing import show_figures
from fedmaml.runs.writing import write_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedmaml.report.pictures import Picture
    from fedmaml.report.reading import Material

_NEEDED = ("matplotlib", "jinja2")
_FOLDER = "figures"


@dataclass(frozen=True)
class Written:
    """The files of a report.

    Attributes:
        page: The HTML file.
        folder: Where the figures are.
        figures: SVG and PNG files, in the order of the page.
        headline: The answer in one line.
    """

    page: Path
    folder: Path
    figures: tuple[Path, ...]
    headline: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "headline": self.headline,
            "page": str(self.page),
            "figures": [str(path) for path in self.figures],
        }


def missing_libraries() -> list[str]:
    """Return the libraries that a report needs and that are not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def write_report(
    directories: Sequence[Path],
    out: Path | None = None,
    comparison: Comparison | None = None,
    *,
    force: bool = False,
    progress: bool = False,
) -> Written:
    """Make a report of run directories, or folders of them, and write page and figures.

    Args:
        directories: At least one; all runs are of one scenario.
        out: The page, or an existing folder for it; None: ``report.html`` in the first directory.
            The figures go to a folder ``figures`` beside it. Drawings in the folder ``pictures``
            of a directory stand on the page as they are.
        comparison: The result of `fedmaml compare` on these runs; None: the result in the given
            folder, if it is still valid, else conclusions from the runs themselves.
        force: Overwrite a report that is there already.
        progress: Show the current step on standard error, on a terminal.

    Raises:
        ConfigurationError: If a library is missing.
        RunDirectoryError: If a directory holds no complete run, or the report cannot be written,
            or is there already (and not ``force``).
        NotComparableError: If the runs are of several scenarios.
    """
    _refuse_without_libraries()
    from fedmaml.report.pictures import pictures_in
    from fedmaml.report.reading import read

    page = _page_path(directories[0], out)
    folder = page.parent / (_FOLDER if page.stem == "report" else f"{page.stem}-{_FOLDER}")
    with _status(progress) as tell:
        tell("reading the runs")
        material = read(directories, comparison)
        _refuse_to_overwrite((page, folder), force)
        files, headline = _files_of(material, pictures_in(directories), page, folder, tell)
    write_all(files)
    _remove_others(folder, files)
    return Written(page, folder, tuple(files)[1:], headline)


def write_figures(
    directories: Sequence[Path],
    out: Path | None = None,
    *,
    style: str = "paper",
    width: str | None = None,
    format: str = "pdf",
    comparison: Comparison | None = None,
    force: bool = False,
    progress: bool = False,
) -> tuple[Path, ...]:
    """Write the figures of a report for an article, and tables for LaTeX.

    Each figure has a CSV file with its numbers beside it. Fonts are embedded (Type 42 in PDF,
    glyphs in SVG). The same runs give the same bytes.

    Args:
        directories: As of `write_report`.
        out: Folder; None: ``paper`` in the first directory.
        style: "paper" (letters of 8 points, like Times) or "page" (as in a report).
        width: Of figures and tables, e.g. "3.25in", "8.3cm", "234pt"; None: 3.25 in for papers.
        format: "pdf", "svg" or "png" (600 dots per inch).
        comparison: As of `write_report`.
        force: Overwrite files of these names.
        progress: Show the current step on standard error, on a terminal.

    Returns:
        The files.

    Raises:
        ConfigurationError: If a library is missing, or style, width or format is unknown.
        RunDirectoryError: If a directory holds no complete run, or a file is there already.
        NotComparableError: If the runs are of several scenarios.
    """
    _refuse_without_libraries()
    from fedmaml.report.papers import files_of, format_of, names_in, style_of
    from fedmaml.report.reading import read

    chosen, kind = style_of(style, width), format_of(format)
    folder = directories[0] / "paper" if out is None else out
    with _status(progress) as tell:
        tell("reading the runs")
        material = read(directories, comparison)
        _refuse_to_overwrite(names_in(folder, kind), force)
        tell("drawing")
        files = files_of(material, folder, chosen, kind)
    write_all(files)
    return tuple(files)


def plot(directories: Sequence[Path], comparison: Comparison | None = None) -> "Figure":
    """Return a figure of matplotlib: loss and validation metric over the rounds of runs.

    Args:
        directories: At least one; all runs are of one scenario.
        comparison: As of `write_report`.

    Raises:
        ConfigurationError: If a library is missing.
        RunDirectoryError: If a directory holds no complete run.
        NotComparableError: If the runs are of several scenarios.
    """
    _refuse_without_libraries()
    from fedmaml.report.learning import learning_curves
    from fedmaml.report.reading import read

    show_figures()
    return learning_curves(read(directories, comparison))


def _refuse_without_libraries() -> None:
    if missing := missing_libraries():
        raise ConfigurationError(
            f"figures and reports need {' and '.join(_NEEDED)}, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install 'fedmaml[report]'"
        )


def _files_of(
    material: "Material",
    pictures: Sequence["Picture"],
    page: Path,
    folder: Path,
    tell: Callable[[str], None],
) -> tuple[dict[Path, bytes], str]:
    """Return the content of every file, the page first, and the answer in one line."""
    from fedmaml.report.figures import draw
    from fedmaml.report.inline import finished
    from fedmaml.report.page import headline, render

    figures = []
    for drawing in draw(material):
        figures.append(finished(drawing))
        tell(f"{len(figures)} figures drawn")
    files = {page: render(material, figures, pictures).encode()}
    for figure in figures:
        files[folder / f"{figure.name}.svg"] = figure.svg.encode()
        files[folder / f"{figure.name}.png"] = figure.png
    return files, headline(material)


@contextmanager
def _status(progress: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step."""
    if not progress:
        yield lambda _: None
        return
    with Console(stderr=True).status("report") as status:
        yield lambda words: status.update(f"report: {words}")


def _page_path(first: Path, out: Path | None) -> Path:
    if out is None:
        return first / "report.html"
    if out.is_dir():
        return out / "report.html"
    if out.suffix not in (".html", ".htm"):
        raise ConfigurationError(
            f"--out {out} names neither a folder that exists nor a page; give a folder, or a name "
            "that ends in .html"
        )
    return out


def _refuse_to_overwrite(paths: Sequence[Path], force: bool) -> None:
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise RunDirectoryError(
            f"{' and '.join(map(str, there))} {'are' if len(there) > 1 else 'is'} there already: "
            "choose another place with --out, or overwrite with --force"
        )


def _remove_others(folder: Path, files: Container[Path]) -> None:
    """Remove the figures of an earlier report that this one does not have."""
    from fedmaml.report.figures import NAMES

    for name in NAMES:
        for path in (*folder.glob(f"{name}.svg"), *folder.glob(f"{name}.png")):
            if path not in files:
                path.unlink()
