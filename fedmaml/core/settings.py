"""How settings are declared: frozen, typed, validated, no unknown names."""

import os
from typing import Annotated, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, WithJsonSchema
from pydantic.dataclasses import dataclass

T = TypeVar("T")

Files = Annotated[
    str,
    AfterValidator(lambda path: path and os.path.abspath(path)),
    WithJsonSchema({"type": "string", "format": "path"}),
]
"""A path or a pattern of paths, made absolute, since nodes and workers start in other folders."""

OfSite = Annotated[str, WithJsonSchema({"type": "string", "format": "of-site"})]
"""A text that only a site may set, in its own file: a name in its data, or code installed there."""


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a frozen dataclass that validates its fields and refuses unknown ones."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=False)
    made: type = dataclass(frozen=True, config=config)(cls)
    return made
