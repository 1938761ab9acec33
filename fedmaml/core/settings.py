"""How everything that a user may set is declared: frozen, typed, checked, no unknown names."""

from typing import TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose fields are validated and may not be misspelled."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=False)
    made: type = dataclass(frozen=True, config=config)(cls)
    return made
