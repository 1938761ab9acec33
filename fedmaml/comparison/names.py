"""Names of strategies as papers write them: "Meta-SGD" for ``meta_sgd``.

Sentences, tables and figures have these; commands, settings, CSV and JSON have the names of the
catalogue.
"""

import re
from collections.abc import Iterable

from fedmaml.config.declared import declared_by_strategy
from fedmaml.strategies import CATALOGUE

_ACRONYMS = re.compile(r"\b(auc|f1|mae|mse|r2|rmse)\b")


def display(name: str) -> str:
    """Return the label of a strategy, with its name where another strategy has the same label.

    What is no strategy of the catalogue, e.g. a reference, keeps its name.
    """
    if name not in CATALOGUE:
        return name
    label = declared_by_strategy(name).label
    alike = [other for other in CATALOGUE if declared_by_strategy(other).label == label]
    return label if len(alike) == 1 else f"{label} ({name})"


def listed(names: Iterable[str]) -> str:
    """Return "A, B and C"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def metric_name(name: str) -> str:
    """Return the readable name of a metric."""
    return _ACRONYMS.sub(lambda found: found[0].upper(), name.replace("_", " "))
