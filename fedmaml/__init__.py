"""Federated meta-learning on Flower and PyTorch.

    strategies     the algorithms, one file each           fedmaml.strategies
    simulations    scenarios, data and back ends           fedmaml.simulations
    computing      updates, evaluation, engines            fedmaml.computing
    client         the Flower side of a site               fedmaml.client
    server         the Flower side of the server           fedmaml.server
    core           the mathematics, in pure PyTorch        fedmaml.core

Start with ``fedmaml list`` on the command line, or with ``docs/architecture.md``.
"""

import os

# Before anything imports flwr: nothing leaves this machine unless the user wants it.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

__version__ = "0.1.0"
