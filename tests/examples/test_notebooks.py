"""The notebooks run from top to bottom in a clean kernel, each within a minute."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (find_spec("nbclient") and find_spec("ipykernel")),
        reason="needs nbclient and ipykernel: pip install 'fedmaml[docs]'",
    ),
]

SECONDS = 60  # of CPU: the time on the clock is the machine's
_MEASURE = """
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

print(sum(getrusage(who).ru_utime for who in (RUSAGE_SELF, RUSAGE_CHILDREN)))
"""


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", ["own_arrays", "comparing_fairly", "own_algorithm"])
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook: Any = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(_MEASURE))
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    *cells, measured = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert float(measured.outputs[0]["text"]) < SECONDS
    assert any("image/png" in str(output) for cell in cells for output in cell.outputs)
