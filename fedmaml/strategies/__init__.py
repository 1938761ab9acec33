"""The strategies by name. A new one is a file here and a line in `CATALOGUE`."""

from fedmaml.core.plugins import installed
from fedmaml.strategies.base import MetaStrategy
from fedmaml.strategies.fedadam import FedAdam
from fedmaml.strategies.fedavg import FedAvg
from fedmaml.strategies.fedprox import FedProx
from fedmaml.strategies.fedrep import FedRep
from fedmaml.strategies.fomaml import FOMAML
from fedmaml.strategies.local import Local
from fedmaml.strategies.maml import MAML
from fedmaml.strategies.meta_sgd import MetaSGD
from fedmaml.strategies.protonet import ProtoNet
from fedmaml.strategies.reptile import Reptile

CATALOGUE: dict[str, type[MetaStrategy]] = installed(
    "fedmaml.strategies",
    {
        # baselines
        "local": Local,
        "fedavg": FedAvg,
        "fedadam": FedAdam,
        "fedprox": FedProx,
        # an initialisation that adapts
        "maml": MAML,
        "fomaml": FOMAML,
        "reptile": Reptile,
        "meta_sgd": MetaSGD,
        # a shared representation
        "protonet": ProtoNet,
        "fedrep": FedRep,
    },
)
"""Strategies of this package, and of installed packages (entry points "fedmaml.strategies")."""

__all__ = [
    "CATALOGUE",
    "FOMAML",
    "MAML",
    "FedAdam",
    "FedAvg",
    "FedProx",
    "FedRep",
    "Local",
    "MetaSGD",
    "MetaStrategy",
    "ProtoNet",
    "Reptile",
]
