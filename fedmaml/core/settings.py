"""How settings are declared: frozen, typed, validated, no unknown names."""

from typing import TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a frozen dataclass that validates its fields and refuses unknown ones."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=False)
    made: type = dataclass(frozen=True, config=config)(cls)
    return made
