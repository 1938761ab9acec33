"""The two Flower apps that a back end runs, as references it can hand to other processes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Apps:
    """A server app and a client app, each as ``"package.module:attribute"``.

    Back ends are *given* the apps, as Flower's own simulation entry is: ``simulations`` stays
    below ``server`` and ``client`` and imports neither. Both modules must be importable in a new
    process (pip-installed), because that process finds them by name.

    Attributes:
        server: The ``ServerApp``, e.g. ``"fedmaml.server.app:app"``.
        client: The ``ClientApp``, e.g. ``"fedmaml.client.app:app"``.
    """

    server: str
    client: str
