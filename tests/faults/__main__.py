"""Run the tests of all faults: python -m tests.faults [--deployment] [options of pytest].

Without ``--deployment`` those of real SuperLinks and SuperNodes are left out.
"""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.faults.rows import ROWS

ROOT = Path(__file__).parents[2]


def main() -> int:
    given = sys.argv[1:]
    deployment = "--deployment" in given
    files = {start.partition("::")[0] for row in ROWS.values() for start in row.shown_by}
    kinds = "not gpu" if deployment else "not gpu and not deployment"
    os.chdir(ROOT)
    started = time.monotonic()
    code = pytest.main(
        [
            "-p", "tests.faults.report", "-m", kinds, "--timeout", "1200", "-q",
            *(word for word in given if word != "--deployment"),
            *sorted(f"tests/{name}" for name in files),
        ]
    )  # fmt: skip
    spent = sum(os.times()[:4])
    print(f"{time.monotonic() - started:.0f} seconds, {spent:.0f} of processors")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
