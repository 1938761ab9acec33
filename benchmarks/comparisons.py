"""The comparisons that the README shows, made by `fedmaml compare`.

python -m benchmarks.comparisons [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import Table, add_json_option, estimate, print_tables, write

COMPARE = "compare digits --strategies fomaml,maml --seeds 5"
COMMANDS = {
    "digits, last round": f"{COMPARE} --set evaluation.select=last",
    "digits, round by validation": COMPARE,
}
COLUMNS = {
    "strategy": ["{name}"],
    "before adaptation": ["{before:.3f}"],
    "accuracy": ["{after:.3f}"],
    "minus fine-tuned FedAvg": estimate("difference", "+.3f"),
    "verdict": ["{verdict}"],
}


def compare(words: str) -> Table:
    """Run `fedmaml` with these words in a process of its own; return the table it wrote."""
    program = "from fedmaml.cli import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", program, *words.split(), "--out", folder, "--force"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return table(Path(folder))


def table(folder: Path) -> Table:
    """Return the comparison that `fedmaml compare --out FOLDER` has written."""
    rows: dict[str, dict[str, Any]] = {}
    for row in json.loads((folder / "comparison.json").read_text())["rows"]:
        low, high = row["difference_ci95"] or (None, None)
        difference = {"mean": row["difference"], "low": low, "high": high}
        rows[row["strategy"]] = {
            "before": row["before"],
            "after": row["after"],
            "difference": None if row["difference"] is None else difference,
            "verdict": row["verdict"],
        }
    return Table(COLUMNS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {name: compare(words) for name, words in COMMANDS.items()}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
