"""How often the interval of a comparison holds the true difference, on synthetic comparisons.

    python -m benchmarks.interval_coverage [--repeats 4000] [--json FILE]

Each comparison has 40 clients a seed. A client's value is skewed (exponential); what the clients of
a seed share is normal, in units of the standard deviation of a client's own part.
"""

import argparse
from typing import Any

import numpy as np

from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.core.statistics import hierarchical_interval

WORLDS = (
    (1, 0.0), (2, 0.0), (2, 0.2), (3, 0.0), (3, 0.2), (3, 1.0), (5, 0.0), (5, 0.2), (5, 1.0),
    (10, 0.2),
)  # fmt: skip
"""Seeds, and what a seed's clients share."""
CLIENTS = 40
COLUMNS = {
    "seeds": ["{seeds:.0f}"],
    "shared by the clients of a seed": ["{shared}"],
    "the interval holds the truth": ["{coverage:.3f}"],
}


def coverage(seeds: int, shared: float, repeats: int) -> dict[str, Any]:
    """Return the share of 95 % intervals that hold the true mean, 0."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(repeats):
        own = rng.exponential(1, (seeds, CLIENTS)) - 1
        low, high = hierarchical_interval(own + shared * rng.normal(0, 1, (seeds, 1)), 0, 999)
        hits += low <= 0 <= high
    return {"seeds": seeds, "shared": shared, "coverage": hits / repeats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    add_json_option(parser)
    arguments = parser.parse_args()
    rows = {
        f"{seeds} seeds, {shared:g} shared": coverage(seeds, shared, arguments.repeats)
        for seeds, shared in WORLDS
    }
    tables = {"coverage": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
