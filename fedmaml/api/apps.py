"""fedmaml's own Flower apps, for a Flower app with a scenario of its own (`fedmaml new app`)."""

from typing import Any

from fedmaml.config import allow_own_code


def client_app() -> Any:
    """Return the ``ClientApp`` for the scenario that a run config names; ``app = fm.client_app()``.

    Whoever installs the Flower app that says so lets its scenario run here.
    """
    from fedmaml.client.app import app

    allow_own_code()
    return app


def server_app() -> Any:
    """Return the ``ServerApp``, which writes a run folder; ``app = fm.server_app()``."""
    from fedmaml.server.app import app

    allow_own_code()
    return app
