"""Federated meta-learning on Flower and PyTorch.

    import fedmaml as fm

    result = fm.run("digits", strategy="maml", inner_steps=5)      docs/python.md
    fm.compare("digits", strategies=["maml", "fomaml"], seeds=5)

What ``__all__`` names is public; it is imported when it is looked up, and PyTorch with it. Inside:

    strategies     the algorithms, one file each           fedmaml.strategies
    simulations    scenarios, data and back ends           fedmaml.simulations
    computing      updates, evaluation, engines            fedmaml.computing
    client         the Flower side of a site               fedmaml.client
    server         the Flower side of the server           fedmaml.server
    core           the mathematics, in pure PyTorch        fedmaml.core
    api            the calls above                         fedmaml.api

On the command line start with ``fedmaml list``; ``docs/architecture.md`` explains the parts.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmaml.api.apps import client_app, server_app
    from fedmaml.api.comparing import ComparisonResult, compare
    from fedmaml.api.datasets import from_clients
    from fedmaml.api.running import RunResult, load, load_model, run
    from fedmaml.client.replies import evaluate_reply, train_reply
    from fedmaml.core.errors import FedmamlError
    from fedmaml.core.inner_loop import GradientSteps
    from fedmaml.core.learner import Problem
    from fedmaml.core.outer_optimizer import OuterOptimizer
    from fedmaml.simulations.scenario import Scenario
    from fedmaml.simulations.scenarios import Csv, Digits, Hospitals, Quadratic, Sinusoid
    from fedmaml.simulations.site_data import Sites
    from fedmaml.strategies import (
        FOMAML,
        MAML,
        FedAdam,
        FedAvg,
        FedProx,
        FedRep,
        Local,
        MetaSGD,
        MetaStrategy,
        ProtoNet,
        Reptile,
    )

# Before anything imports flwr: nothing leaves this machine unless the user wants it.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

__version__ = "0.1.0"

_CLASSES = {
    "fedmaml.strategies": (
        "FOMAML", "MAML", "FedAdam", "FedAvg", "FedProx", "FedRep", "Local", "MetaSGD",
        "MetaStrategy", "ProtoNet", "Reptile",
    ),
    "fedmaml.simulations.scenarios": (
        "Csv", "Digits", "Hospitals", "Quadratic", "Scenario", "Sinusoid",
    ),
    "fedmaml.simulations.site_data": ("Sites",),
    "fedmaml.client.replies": ("evaluate_reply", "train_reply"),
    "fedmaml.api.apps": ("client_app", "server_app"),
    "fedmaml.core.learner": ("Problem",),
    "fedmaml.core.inner_loop": ("GradientSteps",),
    "fedmaml.core.outer_optimizer": ("OuterOptimizer",),
    "fedmaml.core.errors": ("FedmamlError",),
    "fedmaml.api.running": ("RunResult", "load", "load_model", "run"),
    "fedmaml.api.comparing": ("ComparisonResult", "compare"),
    "fedmaml.api.datasets": ("from_clients",),
}  # fmt: skip
"""Module -> what is public of it."""


def __getattr__(name: str) -> Any:
    from fedmaml.core.plugins import imported

    places = (f"{module}:{one}" for module, names in _CLASSES.items() for one in names)
    return imported(__name__, name, places)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "FOMAML",
    "MAML",
    "ComparisonResult",
    "Csv",
    "Digits",
    "FedAdam",
    "FedAvg",
    "FedProx",
    "FedRep",
    "FedmamlError",
    "GradientSteps",
    "Hospitals",
    "Local",
    "MetaSGD",
    "MetaStrategy",
    "OuterOptimizer",
    "Problem",
    "ProtoNet",
    "Quadratic",
    "Reptile",
    "RunResult",
    "Scenario",
    "Sinusoid",
    "Sites",
    "client_app",
    "compare",
    "evaluate_reply",
    "from_clients",
    "load",
    "load_model",
    "run",
    "server_app",
    "train_reply",
]
