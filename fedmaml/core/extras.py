"""Libraries that only an extra of fedmaml installs."""

import importlib
from typing import Any

from fedmaml.core.errors import ConfigurationError


def imported(module: str, extra: str, purpose: str) -> Any:
    """Return a module of a library that ``extra`` installs.

    Args:
        module: Its name.
        extra: Which extra installs it.
        purpose: What needs it, as the beginning of a message.

    Raises:
        ConfigurationError: If it cannot be imported; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'fedmaml[{extra}]'"
        ) from error
