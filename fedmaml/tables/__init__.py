"""Tables on the terminal, a file for each thing that is shown."""

from fedmaml.tables.checks import audit_table, check_table
from fedmaml.tables.clocks import clock_table
from fedmaml.tables.estimates import estimate_table
from fedmaml.tables.lists import list_table
from fedmaml.tables.runs import run_table

__all__ = [
    "audit_table",
    "check_table",
    "clock_table",
    "estimate_table",
    "list_table",
    "run_table",
]
