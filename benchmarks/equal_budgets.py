"""Meta-learning beside personalised federated learning, at equal rounds and at equal operations.

    python -m benchmarks.equal_budgets [NAME ...] [--runs DIR] [--json FILE]

Eleven ways to serve new clients, on each scenario of `CASES`. Each trains either as many rounds as
FedAvg, or as many as its operations pay for. Settings are those of the recipes, and of the rounds
the best by validation clients is evaluated. Complete runs in DIR are reused, so after Ctrl-C the
same command goes on. Scenarios that were not named stay in the file as they are.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.atlas.verdicts import values_of
from benchmarks.tables import Table, add_json_option, print_tables, tables_in, write
from fedmaml.api.comparing import compared
from fedmaml.comparison.conclusions import Comparison

STRATEGIES = (
    "fomaml", "maml", "meta_sgd", "anil", "protonet", "ditto", "pfedme", "fedrep",
)  # fmt: skip
"""Beside the baselines of every comparison."""
COLUMNS = {
    "method": ["{label}"],
    "rounds": ["{rounds:,}"],
    "before": ["{before:.3f}", ""],
    "after": ["{after:.3f}", "diverged"],
    "minus FedAvg + fine-tuning": ["{difference:+.3f} ({low:+.3f} .. {high:+.3f})", ""],
    "verdict": ["{verdict}", ""],
    "bytes": ["{megabytes:~3} MB"],
    "operations": ["{gigaflops:~3} GFLOP", "0 GFLOP"],
}


@dataclass(frozen=True)
class Case:
    """A scenario, and for how long FedAvg trains on it.

    Attributes:
        rounds: At equal rounds.
        rounds_of_operations: Of FedAvg, whose operations all others may spend.
        seeds: How many.
    """

    rounds: int
    rounds_of_operations: int
    seeds: int


CASES = {"activity": Case(200, 200, 3), "femnist": Case(100, 40, 2)}


def table_of(comparison: Comparison) -> Table:
    """Return one row for each strategy, the best first."""
    rows = {
        row.strategy: values_of(row, comparison.took[row.strategy])
        | {"rounds": row.rounds, "verdict": row.verdict}
        for row in comparison.rows
    }
    order = sorted(rows, key=lambda name: -(rows[name]["after"] or 0.0))
    return Table(COLUMNS, {name: rows[name] for name in order})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are")
    add_json_option(parser)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(CASES)):
        parser.error(f"{', '.join(unknown)}: none of {', '.join(CASES)}")
    tables = tables_in(arguments.json)
    for name in arguments.names or CASES:
        case = CASES[name]
        for equal, rounds in ("flops", case.rounds_of_operations), ("rounds", case.rounds):
            folder = arguments.runs / f"equal_{equal}" / name
            made = compared(
                name, STRATEGIES, case.seeds, [], rounds=rounds, equal=equal, out=folder,
                progress=True, report=False,
            )  # fmt: skip
            tables[f"{name}, equal {equal}"] = table_of(made.comparison)
            if arguments.json:
                names = sorted({name.partition(",")[0] for name in tables})
                of_all = " ".join(["python -m benchmarks.equal_budgets", *names])
                write(arguments.json, tables, command=of_all)
    print_tables(tables)


if __name__ == "__main__":
    main()
