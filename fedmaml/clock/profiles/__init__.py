"""Links and devices: profiles that come with fedmaml, a TOML file each, and a user's own."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import ValidationError

from fedmaml.config import nearest
from fedmaml.core.errors import ConfigurationError
from fedmaml.core.settings import settings


@settings
class Profile:
    """A link and a device.

    Attributes:
        down_mbit_s: Median bandwidth to the client, in 10^6 bit/s.
        up_mbit_s: Median bandwidth from the client.
        round_trip_ms: Time there and back of an empty message.
        gflop_s: Median speed of the client's device, in 10^9 operations/s, as reached in training.
        link_spread: Standard deviation of the logarithm of a client's bandwidth; 0: all are equal.
        device_spread: The same of its speed.
        round_trips: Round trips in a round: TCP, TLS 1.3, and request with reply make three.
        about: One line for ``fedmaml list``.
        name: As it is shown; "" becomes that of its file.
    """

    down_mbit_s: Annotated[float, Gt(0)]
    up_mbit_s: Annotated[float, Gt(0)]
    round_trip_ms: Annotated[float, Ge(0)]
    gflop_s: Annotated[float, Gt(0)]
    link_spread: Annotated[float, Ge(0), Le(5)] = 0.0
    device_spread: Annotated[float, Ge(0), Le(5)] = 0.0
    round_trips: Annotated[int, Ge(1)] = 3
    about: str = ""
    name: str = ""


def profiles() -> dict[str, Profile]:
    """Return the profiles that come with fedmaml, by name."""
    shipped = (path for path in files(__name__).iterdir() if path.name.endswith(".toml"))
    made = [_profile(path.name, path.read_text(encoding="utf-8")) for path in shipped]
    return {profile.name: profile for profile in sorted(made, key=lambda profile: profile.name)}


def load_profile(name: str) -> Profile:
    """Return a profile by its name, or from a TOML file.

    Raises:
        ConfigurationError: If there is none, or if a value in it is wrong.
    """
    shipped = profiles()
    if name in shipped:
        return shipped[name]
    if not name.endswith(".toml"):
        raise ConfigurationError(
            f"profile {name!r}: there is no such profile{nearest(name, shipped)}; known: "
            f"{', '.join(shipped)} (fedmaml list profiles), or the path of a .toml file"
        )
    try:
        return _profile(name, Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read profile {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"profile {name} is not valid TOML: {error}") from error


def _profile(path: str, text: str) -> Profile:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"profile {path} is not valid TOML: {error}") from error
    fields = Profile.__dataclass_fields__
    for key in table:
        if key not in fields:
            raise ConfigurationError(
                f"profile {path}: unknown key {key!r}{nearest(key, fields)}; known: "
                f"{', '.join(fields)}"
            )
    try:
        return Profile(**{"name": Path(path).stem, **table})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ConfigurationError(f"profile {path}: {key} is missing") from error
        raise ConfigurationError(
            f"profile {path}: {key} = {first['input']!r}: {first['msg'].lower()}"
        ) from error
