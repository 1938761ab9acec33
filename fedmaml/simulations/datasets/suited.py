"""Clients whose data a scenario cannot use: they are left out by name, each with the reason."""

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

C = TypeVar("C")
Name = TypeVar("Name", bound=Hashable)


def suited(
    clients: Mapping[Name, C], lacking: Callable[[C], str]
) -> tuple[dict[Name, C], dict[Name, str]]:
    """Return the clients that can take part, in their order, and why each of the others cannot.

    Args:
        clients: By name.
        lacking: What keeps a client from taking part, e.g. "fewer than 40 words"; "" if nothing.
    """
    reasons = {name: lacking(client) for name, client in clients.items()}
    fit = {name: client for name, client in clients.items() if not reasons[name]}
    return fit, {name: why for name, why in reasons.items() if why}
