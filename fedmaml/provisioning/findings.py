"""What a check found, and how to cure it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A line of the doctor.

    Attributes:
        check: What was looked at, one or two words.
        passed: True, False, or None if it could not be looked at.
        what: What was found; never a value of the site's data.
        fix: What to do; "" if nothing is wrong.
    """

    check: str
    passed: bool | None
    what: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def line(self) -> str:
        """Return the finding in one line."""
        return f"{self.check}: {self.what}" + (f"; {self.fix}" if self.fix else "")


def good(check: str, what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(check, True, what)


def bad(check: str, what: str, fix: str) -> Finding:
    """Return that something is wrong, and the cure."""
    return Finding(check, False, what, fix)


def unknown(check: str, why: str) -> Finding:
    """Return that something could not be looked at."""
    return Finding(check, None, f"not looked at: {why}")
