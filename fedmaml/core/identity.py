"""What a party computes with: version, code and settings; two parties compare theirs.

A site and its coordinator must run the same code on the same settings, or their updates mean
different things. Each part of the package has a digest of its own, and each setting stands by
itself, so that a difference is named.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_CODE = {".py", ".json", ".cpp", ".h", ".hpp"}
_DIGITS = 16
_SHOWN = 5  # differences that are named
_LENGTH = 60  # characters of a setting that are shown

MAX_TEXT = 64 * 1024
"""Longest text of an identity that is read."""


@dataclass(frozen=True)
class Identity:
    """Version, code and settings of a party.

    Attributes:
        version: Of fedmaml.
        code: Part of the package, or a class from elsewhere -> first digits of its SHA-256.
        settings: Dotted key -> value as JSON.
    """

    version: str
    code: Mapping[str, str]
    settings: Mapping[str, str]

    def to_text(self) -> str:
        """Return one text, the same for equal identities."""
        return json.dumps([self.version, dict(self.code), dict(self.settings)], sort_keys=True)

    @property
    def settings_sha256(self) -> str:
        """SHA-256 of all settings."""
        text = json.dumps(dict(self.settings), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def identity_from_text(text: str) -> Identity:
    """Undo `Identity.to_text`.

    Raises:
        ValueError: If the text says something else.
    """
    if len(text) > MAX_TEXT:
        raise ValueError("too long")
    version, code, settings = json.loads(text)
    for part in (code, settings):
        if not isinstance(part, dict) or not all(isinstance(each, str) for each in part.values()):
            raise ValueError("not texts by name")
    return Identity(str(version), code, settings)


def identity(version: str, settings: Mapping[str, Any], *classes: type) -> Identity:
    """Return the identity of this process.

    Args:
        version: Of fedmaml.
        settings: Dotted key -> plain value.
        classes: Scenario and strategy, whose files count if they are not of this package.
    """
    code = dict(_digests())
    for each in classes:
        file = inspect.getsourcefile(each)
        if file and not Path(file).is_relative_to(_PACKAGE):
            place = f"{each.__module__}:{each.__qualname__}"
            code[place] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:_DIGITS]
    return Identity(version, code, {key: json.dumps(value) for key, value in settings.items()})


def difference(own: Identity, other: Identity) -> str:
    """Return what another party has that differs from one's own; "" if nothing does.

    Never says more of the other than a few names and values, cut and printable.
    """
    if own.version != other.version:
        return f"it runs fedmaml {_shown(other.version)}, the coordinator {own.version}"
    if parts := _differing(own.code, other.code):
        return f"its code differs in {_listed(map(_shown, parts))}"
    if keys := _differing(own.settings, other.settings):
        said = (
            f"{_shown(key)} = {_shown(other.settings.get(key, 'not set'))} (the coordinator has "
            f"{_shown(own.settings.get(key, 'not set'))})"
            for key in keys
        )
        return f"its configuration differs: {_listed(said)}"
    return ""


def _differing(own: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*own, *other} if own.get(name) != other.get(name))


def _listed(names: Iterator[str]) -> str:
    every = list(names)
    rest = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + rest


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LENGTH])


@cache
def _digests() -> Mapping[str, str]:
    """Return the digest of each part of the package: a folder in it, or one of its own modules."""
    parts: dict[str, Any] = {}
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in _CODE and path.is_file():
            place = path.relative_to(_PACKAGE)
            digest = parts.setdefault(place.parts[0].removesuffix(".py"), hashlib.sha256())
            content = path.read_bytes().replace(b"\r\n", b"\n")
            digest.update(f"{place.as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return {name: digest.hexdigest()[:_DIGITS] for name, digest in parts.items()}
