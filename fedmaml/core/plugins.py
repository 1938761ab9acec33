"""Catalogues that installed packages extend by entry points.

[project.entry-points."fedmaml.scenarios"]      in the pyproject.toml of the other package
wards = "my_package.wards:Wards"
"""

from importlib.metadata import entry_points
from typing import Any

from fedmaml.core.errors import ConfigurationError


def installed(group: str, known: dict[str, Any]) -> dict[str, Any]:
    """Return a catalogue together with the entry points of installed packages.

    Args:
        group: Of entry points, e.g. "fedmaml.scenarios".
        known: The catalogue, name -> class.

    Raises:
        ConfigurationError: If an entry point cannot be loaded, or if its name is taken.
    """
    catalogue = dict(known)
    for entry in entry_points(group=group):
        if entry.name in catalogue:
            raise ConfigurationError(
                f"entry point {entry.name!r} of group {group!r} ({entry.value}) takes a name that "
                "is taken; rename it, or uninstall the package that declares it"
            )
        try:
            catalogue[entry.name] = entry.load()
        except Exception as error:  # whatever the other package's code raises
            raise ConfigurationError(
                f"entry point {entry.name!r} of group {group!r} ({entry.value}) cannot be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall the package that declares it"
            ) from error
    return catalogue
