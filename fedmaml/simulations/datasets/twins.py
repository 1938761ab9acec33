"""Examples that a client has twice: one could stand in the support and the other in the query."""

import numpy as np


def rows_of_owners(owners: np.ndarray, examples: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each owner, in the order of their numbers; equal examples are taken once.

    Args:
        owners: Number of each example's owner, ``(examples,)``.
        examples: ``(examples, ...)``.
    """
    all_rows = [np.flatnonzero(owners == owner) for owner in np.unique(owners)]
    return [rows[_first_of_equals(examples[rows])] for rows in all_rows]


def _first_of_equals(examples: np.ndarray) -> np.ndarray:
    """Return the rows that no earlier row equals byte by byte, in order."""
    first: dict[bytes, int] = {}
    for row, example in enumerate(examples):
        first.setdefault(example.tobytes(), row)
    return np.array([*first.values()])
