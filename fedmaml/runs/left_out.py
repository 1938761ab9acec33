"""Clients that a scenario leaves out of a run: counted by reason for files, and as a sentence."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

_KEPT, _SHOWN, _KINDS = 20, 3, 5
"""Names in a summary; of these, names in a sentence; reasons in a sentence."""


def counted(left_out: Mapping[str, str]) -> dict[str, Any]:
    """Return what `Scenario.left_out` returned as a summary keeps it; {} if nobody is left out.

    E.g. ``{"count": 2, "reasons": {"no rows": 2}, "clients": ["a", "b"]}``: reasons in the order of
    their counts, and the names of at most 20 clients.
    """
    if not left_out:
        return {}
    reasons = dict(Counter(left_out.values()).most_common())
    return {"count": len(left_out), "reasons": reasons, "clients": list(left_out)[:_KEPT]}


def in_words(entry: Mapping[str, Any]) -> str:
    """Return "78 clients: no infected cells (50), fewer than 10 (28); C1, C2, C3 and 75 others"."""
    count, names = entry["count"], entry["clients"][:_SHOWN]
    counts = list(entry["reasons"].items())
    reasons = ", ".join(f"{reason} ({times})" for reason, times in counts[:_KINDS])
    if len(counts) > _KINDS:
        reasons += f", {len(counts) - _KINDS} other reasons"
    others = count - len(names)
    rest = f" and {others} other{'s' if others > 1 else ''}" if others else ""
    return f"{count} client{'s' if count > 1 else ''}: {reasons}; {', '.join(names)}{rest}"
