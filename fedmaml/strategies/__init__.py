"""The strategies by name. A new one is a file here and a line in `CATALOGUE`.

A strategy's file is imported when it is looked up, here or in the catalogue, and PyTorch with it.
"""

from typing import TYPE_CHECKING, Any

from fedmaml.core.plugins import Catalogue, imported

if TYPE_CHECKING:
    from fedmaml.strategies.anil import ANIL
    from fedmaml.strategies.anp import ANP
    from fedmaml.strategies.apfl import APFL
    from fedmaml.strategies.base import MetaStrategy
    from fedmaml.strategies.boil import BOIL
    from fedmaml.strategies.cavia import CAVIA
    from fedmaml.strategies.cnp import CNP
    from fedmaml.strategies.ditto import Ditto
    from fedmaml.strategies.empirical_bayes import EmpiricalBayes
    from fedmaml.strategies.fedadam import FedAdam
    from fedmaml.strategies.fedavg import FedAvg
    from fedmaml.strategies.fedbabu import FedBABU
    from fedmaml.strategies.fedprox import FedProx
    from fedmaml.strategies.fedrep import FedRep
    from fedmaml.strategies.fomaml import FOMAML
    from fedmaml.strategies.imaml import IMAML
    from fedmaml.strategies.learned_momentum import LearnedMomentum
    from fedmaml.strategies.local import Local
    from fedmaml.strategies.lslr import LSLR
    from fedmaml.strategies.maml import MAML
    from fedmaml.strategies.mann import MANN
    from fedmaml.strategies.map import MAP
    from fedmaml.strategies.matchingnet import MatchingNet
    from fedmaml.strategies.meta_gradient_descent import MetaGradientDescent
    from fedmaml.strategies.meta_lstm import MetaLSTM
    from fedmaml.strategies.meta_memory import MetaMemory
    from fedmaml.strategies.meta_sgd import MetaSGD
    from fedmaml.strategies.metanet import MetaNet
    from fedmaml.strategies.pearl import PEARL
    from fedmaml.strategies.per_fedavg_fo import PerFedAvgFO
    from fedmaml.strategies.per_fedavg_hf import PerFedAvgHF
    from fedmaml.strategies.pfedme import PFedMe
    from fedmaml.strategies.protonet import ProtoNet
    from fedmaml.strategies.q_fedavg import QFedAvg
    from fedmaml.strategies.r2d2 import R2D2
    from fedmaml.strategies.relation import Relation
    from fedmaml.strategies.reptile import Reptile
    from fedmaml.strategies.ridge_head import RidgeHead
    from fedmaml.strategies.rl2 import RL2
    from fedmaml.strategies.scaffold import Scaffold
    from fedmaml.strategies.siamese import Siamese
    from fedmaml.strategies.snail import SNAIL
    from fedmaml.strategies.truncated import Truncated

_FOLDER = "fedmaml.strategies"
_BASE = f"{_FOLDER}.base:MetaStrategy"
_KNOWN = {
    # baselines
    "local": f"{_FOLDER}.local:Local",
    "fedavg": f"{_FOLDER}.fedavg:FedAvg",
    "fedadam": f"{_FOLDER}.fedadam:FedAdam",
    "fedprox": f"{_FOLDER}.fedprox:FedProx",
    "meta_gradient_descent": f"{_FOLDER}.meta_gradient_descent:MetaGradientDescent",
    # an initialisation that adapts by gradient steps
    "maml": f"{_FOLDER}.maml:MAML",
    "fomaml": f"{_FOLDER}.fomaml:FOMAML",
    "reptile": f"{_FOLDER}.reptile:Reptile",
    "meta_sgd": f"{_FOLDER}.meta_sgd:MetaSGD",
    "anil": f"{_FOLDER}.anil:ANIL",
    "boil": f"{_FOLDER}.boil:BOIL",
    "cavia": f"{_FOLDER}.cavia:CAVIA",
    "lslr": f"{_FOLDER}.lslr:LSLR",
    "meta_lstm": f"{_FOLDER}.meta_lstm:MetaLSTM",
    "learned_momentum": f"{_FOLDER}.learned_momentum:LearnedMomentum",
    "imaml": f"{_FOLDER}.imaml:IMAML",
    "truncated": f"{_FOLDER}.truncated:Truncated",
    # a model for each client
    "per_fedavg_fo": f"{_FOLDER}.per_fedavg_fo:PerFedAvgFO",
    "per_fedavg_hf": f"{_FOLDER}.per_fedavg_hf:PerFedAvgHF",
    "pfedme": f"{_FOLDER}.pfedme:PFedMe",
    "ditto": f"{_FOLDER}.ditto:Ditto",
    "apfl": f"{_FOLDER}.apfl:APFL",
    "q_fedavg": f"{_FOLDER}.q_fedavg:QFedAvg",
    "scaffold": f"{_FOLDER}.scaffold:Scaffold",
    # a shared body
    "fedrep": f"{_FOLDER}.fedrep:FedRep",
    "fedbabu": f"{_FOLDER}.fedbabu:FedBABU",
    # an embedding in which examples are compared
    "protonet": f"{_FOLDER}.protonet:ProtoNet",
    "matchingnet": f"{_FOLDER}.matchingnet:MatchingNet",
    "siamese": f"{_FOLDER}.siamese:Siamese",
    "relation": f"{_FOLDER}.relation:Relation",
    # a network that reads the support, with the query
    "cnp": f"{_FOLDER}.cnp:CNP",
    "anp": f"{_FOLDER}.anp:ANP",
    "mann": f"{_FOLDER}.mann:MANN",
    "meta_memory": f"{_FOLDER}.meta_memory:MetaMemory",
    "metanet": f"{_FOLDER}.metanet:MetaNet",
    "snail": f"{_FOLDER}.snail:SNAIL",
    "rl2": f"{_FOLDER}.rl2:RL2",
    "pearl": f"{_FOLDER}.pearl:PEARL",
    # a head in closed form
    "r2d2": f"{_FOLDER}.r2d2:R2D2",
    "ridge_head": f"{_FOLDER}.ridge_head:RidgeHead",
    # a prior over the clients' parameters
    "empirical_bayes": f"{_FOLDER}.empirical_bayes:EmpiricalBayes",
    "map": f"{_FOLDER}.map:MAP",
}

CATALOGUE: Catalogue["type[MetaStrategy]"] = Catalogue("fedmaml.strategies", _KNOWN, _BASE)
"""Strategies of this package, and of installed packages (entry points "fedmaml.strategies")."""


def __getattr__(name: str) -> Any:
    return imported(__name__, name, (*_KNOWN.values(), _BASE))


__all__ = [
    "ANIL",
    "ANP",
    "APFL",
    "BOIL",
    "CATALOGUE",
    "CAVIA",
    "CNP",
    "FOMAML",
    "IMAML",
    "LSLR",
    "MAML",
    "MANN",
    "MAP",
    "PEARL",
    "R2D2",
    "RL2",
    "SNAIL",
    "Ditto",
    "EmpiricalBayes",
    "FedAdam",
    "FedAvg",
    "FedBABU",
    "FedProx",
    "FedRep",
    "LearnedMomentum",
    "Local",
    "MatchingNet",
    "MetaGradientDescent",
    "MetaLSTM",
    "MetaMemory",
    "MetaNet",
    "MetaSGD",
    "MetaStrategy",
    "PFedMe",
    "PerFedAvgFO",
    "PerFedAvgHF",
    "ProtoNet",
    "QFedAvg",
    "Relation",
    "Reptile",
    "RidgeHead",
    "Scaffold",
    "Siamese",
    "Truncated",
]
