"""Numbers as text: in tables, in sentences and along axes."""

from collections.abc import Mapping, Sequence

_PREFIXES = {
    "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6,
}  # fmt: skip


def quantity(value: float | None, unit: str) -> str:
    """Return three digits with a decimal prefix, "57.8 MB"; without one as few as it has."""
    if value is None:
        return f"unknown {unit}"
    prefix, size = decimal_prefix(value)
    digits = f"{value / size:#.3g}".rstrip(".") if prefix else f"{value:.3g}"
    return f"{digits} {prefix}{unit}"


def support_and_query(units: Mapping[str, float]) -> str:
    """Return the units of a counter as a sum, "2,400 + 1,200"."""
    return f"{units_text(units['support'])} + {units_text(units['query'])}"


def units_text(units: float) -> str:
    """Return all digits of a count; a mean has one decimal."""
    return f"{units:,.{0 if units == int(units) else 1}f}"


def decimal_prefix(value: float) -> tuple[str, float]:
    """Return the prefix for a value, and its factor: ("k", 1000.0)."""
    for prefix, size in _PREFIXES.items():
        if abs(value) >= 0.9995 * size:  # what rounds up to the next prefix has it
            return prefix, size
    return "", 1.0


def number(value: float | None) -> str:
    """Return three digits or more, short enough for a row of 80 characters."""
    if value is None:
        return "–"
    size = abs(value)
    if 0 < size < 0.0005 or size >= 100_000:
        return f"{value:.1g}"
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:.{decimals}f}"


def signed(value: float | None) -> str:
    """Return `number` with its sign."""
    return number(value) if value is None or value < 0 else f"+{number(value)}"


def p_text(value: float | None) -> str:
    """Return a p-value as text."""
    return "–" if value is None else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def resumed(after: Sequence[int]) -> str:
    """Return "resumed after round 3", or "resumed after rounds 3, 7"."""
    plural = "s" if len(after) > 1 else ""
    return f"resumed after round{plural} {', '.join(map(str, after))}"
