"""The strategies by name. A new one is a file here and a line in `CATALOGUE`.

A strategy's file is imported when it is looked up, here or in the catalogue, and PyTorch with it.
"""

from typing import TYPE_CHECKING, Any

from fedmaml.core.plugins import Catalogue, imported

if TYPE_CHECKING:
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

_FOLDER = "fedmaml.strategies"
_BASE = f"{_FOLDER}.base:MetaStrategy"
_KNOWN = {
    # baselines
    "local": f"{_FOLDER}.local:Local",
    "fedavg": f"{_FOLDER}.fedavg:FedAvg",
    "fedadam": f"{_FOLDER}.fedadam:FedAdam",
    "fedprox": f"{_FOLDER}.fedprox:FedProx",
    # an initialisation that adapts
    "maml": f"{_FOLDER}.maml:MAML",
    "fomaml": f"{_FOLDER}.fomaml:FOMAML",
    "reptile": f"{_FOLDER}.reptile:Reptile",
    "meta_sgd": f"{_FOLDER}.meta_sgd:MetaSGD",
    # a shared representation
    "protonet": f"{_FOLDER}.protonet:ProtoNet",
    "fedrep": f"{_FOLDER}.fedrep:FedRep",
}

CATALOGUE: Catalogue["type[MetaStrategy]"] = Catalogue("fedmaml.strategies", _KNOWN, _BASE)
"""Strategies of this package, and of installed packages (entry points "fedmaml.strategies")."""


def __getattr__(name: str) -> Any:
    return imported(__name__, name, (*_KNOWN.values(), _BASE))


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
