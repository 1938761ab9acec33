"""Help of commands."""

import inspect
from typing import Any

from typer.core import TyperArgument, TyperCommand
from typer.models import ArgumentInfo


class Command(TyperCommand):
    """A command whose help describes positional arguments, too.

    From click 8.3 on, click's own argument erases the text that typer has set before. This puts it
    back; it does nothing where the text is still there.
    """

    def __init__(self, name: str | None, **options: Any) -> None:
        super().__init__(name, **options)
        declared = inspect.signature(options["callback"]).parameters
        for one in self.params:
            if isinstance(one, TyperArgument) and one.name in declared and not one.help:
                one.help = _help_of(declared[one.name].annotation)


def _help_of(annotation: Any) -> str | None:
    """Return the help that an ``Annotated[..., typer.Argument(help=...)]`` declares."""
    found = getattr(annotation, "__metadata__", ())
    infos = (one for one in found if isinstance(one, ArgumentInfo))
    return next((info.help for info in infos), None)
