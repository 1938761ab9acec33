"""The scenarios by name. A new one is a file here and a line in `CATALOGUE`.

A scenario's file is imported when it is looked up, here or in the catalogue, and PyTorch with it.
"""

from typing import TYPE_CHECKING, Any

from fedmaml.core.plugins import Catalogue, imported

if TYPE_CHECKING:
    from fedmaml.simulations.scenario import Scenario
    from fedmaml.simulations.scenarios.activity import Activity
    from fedmaml.simulations.scenarios.arm import Arm
    from fedmaml.simulations.scenarios.bandits import Bandits
    from fedmaml.simulations.scenarios.bias_variance import BiasVariance
    from fedmaml.simulations.scenarios.class_stream import ClassStream
    from fedmaml.simulations.scenarios.csv import Csv
    from fedmaml.simulations.scenarios.delayed_bandit import DelayedBandit
    from fedmaml.simulations.scenarios.digits import Digits
    from fedmaml.simulations.scenarios.fairness import Fairness
    from fedmaml.simulations.scenarios.femnist import Femnist
    from fedmaml.simulations.scenarios.glucose import Glucose
    from fedmaml.simulations.scenarios.graph_nodes import GraphNodes
    from fedmaml.simulations.scenarios.half_circle import HalfCircle
    from fedmaml.simulations.scenarios.hospitals import Hospitals
    from fedmaml.simulations.scenarios.inverse_design import InverseDesign
    from fedmaml.simulations.scenarios.jmak import Jmak
    from fedmaml.simulations.scenarios.malaria import Malaria
    from fedmaml.simulations.scenarios.materials import Materials
    from fedmaml.simulations.scenarios.meta_parameters import MetaParameters
    from fedmaml.simulations.scenarios.molecule_design import MoleculeDesign
    from fedmaml.simulations.scenarios.molecules import Molecules
    from fedmaml.simulations.scenarios.morphology import Morphology
    from fedmaml.simulations.scenarios.movies import Movies
    from fedmaml.simulations.scenarios.navigation import Navigation
    from fedmaml.simulations.scenarios.omniglot import Omniglot
    from fedmaml.simulations.scenarios.patients import Patients
    from fedmaml.simulations.scenarios.payload import Payload
    from fedmaml.simulations.scenarios.payload_measured import PayloadMeasured
    from fedmaml.simulations.scenarios.payload_network import PayloadNetwork
    from fedmaml.simulations.scenarios.quadratic import Quadratic
    from fedmaml.simulations.scenarios.robot_failures import RobotFailures
    from fedmaml.simulations.scenarios.roles import Roles
    from fedmaml.simulations.scenarios.sinusoid import Sinusoid
    from fedmaml.simulations.scenarios.sky import Sky
    from fedmaml.simulations.scenarios.sky_anomaly import SkyAnomaly
    from fedmaml.simulations.scenarios.suffix_rules import SuffixRules
    from fedmaml.simulations.scenarios.synthesis import Synthesis
    from fedmaml.simulations.scenarios.tabular import Tabular
    from fedmaml.simulations.scenarios.task_families import TaskFamilies
    from fedmaml.simulations.scenarios.trading import Trading

_FOLDER = "fedmaml.simulations.scenarios"
_BASE = "fedmaml.simulations.scenario:Scenario"
_KNOWN = {
    "quadratic": f"{_FOLDER}.quadratic:Quadratic",
    "bias_variance": f"{_FOLDER}.bias_variance:BiasVariance",
    "sinusoid": f"{_FOLDER}.sinusoid:Sinusoid",
    "suffix_rules": f"{_FOLDER}.suffix_rules:SuffixRules",
    "digits": f"{_FOLDER}.digits:Digits",
    "hospitals": f"{_FOLDER}.hospitals:Hospitals",
    "activity": f"{_FOLDER}.activity:Activity",
    "femnist": f"{_FOLDER}.femnist:Femnist",
    "omniglot": f"{_FOLDER}.omniglot:Omniglot",
    "fairness": f"{_FOLDER}.fairness:Fairness",
    "movies": f"{_FOLDER}.movies:Movies",
    "glucose": f"{_FOLDER}.glucose:Glucose",
    "patients": f"{_FOLDER}.patients:Patients",
    "morphology": f"{_FOLDER}.morphology:Morphology",
    "graph_nodes": f"{_FOLDER}.graph_nodes:GraphNodes",
    "roles": f"{_FOLDER}.roles:Roles",
    "malaria": f"{_FOLDER}.malaria:Malaria",
    "payload": f"{_FOLDER}.payload:Payload",
    "payload_network": f"{_FOLDER}.payload_network:PayloadNetwork",
    "payload_measured": f"{_FOLDER}.payload_measured:PayloadMeasured",
    "robot_failures": f"{_FOLDER}.robot_failures:RobotFailures",
    "meta_parameters": f"{_FOLDER}.meta_parameters:MetaParameters",
    "task_families": f"{_FOLDER}.task_families:TaskFamilies",
    "class_stream": f"{_FOLDER}.class_stream:ClassStream",
    "jmak": f"{_FOLDER}.jmak:Jmak",
    "materials": f"{_FOLDER}.materials:Materials",
    "synthesis": f"{_FOLDER}.synthesis:Synthesis",
    "inverse_design": f"{_FOLDER}.inverse_design:InverseDesign",
    "molecule_design": f"{_FOLDER}.molecule_design:MoleculeDesign",
    "sky": f"{_FOLDER}.sky:Sky",
    "sky_anomaly": f"{_FOLDER}.sky_anomaly:SkyAnomaly",
    "molecules": f"{_FOLDER}.molecules:Molecules",
    "tabular": f"{_FOLDER}.tabular:Tabular",
    "delayed_bandit": f"{_FOLDER}.delayed_bandit:DelayedBandit",
    "navigation": f"{_FOLDER}.navigation:Navigation",
    "half_circle": f"{_FOLDER}.half_circle:HalfCircle",
    "arm": f"{_FOLDER}.arm:Arm",
    "bandits": f"{_FOLDER}.bandits:Bandits",
    "trading": f"{_FOLDER}.trading:Trading",
    "csv": f"{_FOLDER}.csv:Csv",
}

CATALOGUE: Catalogue["type[Scenario]"] = Catalogue("fedmaml.scenarios", _KNOWN, _BASE)
"""Scenarios of this package, and of installed packages (entry points "fedmaml.scenarios")."""


def __getattr__(name: str) -> Any:
    return imported(__name__, name, (*_KNOWN.values(), _BASE))


__all__ = [
    "CATALOGUE",
    "Activity",
    "Arm",
    "Bandits",
    "BiasVariance",
    "ClassStream",
    "Csv",
    "DelayedBandit",
    "Digits",
    "Fairness",
    "Femnist",
    "Glucose",
    "GraphNodes",
    "HalfCircle",
    "Hospitals",
    "InverseDesign",
    "Jmak",
    "Malaria",
    "Materials",
    "MetaParameters",
    "MoleculeDesign",
    "Molecules",
    "Morphology",
    "Movies",
    "Navigation",
    "Omniglot",
    "Patients",
    "Payload",
    "PayloadMeasured",
    "PayloadNetwork",
    "Quadratic",
    "RobotFailures",
    "Roles",
    "Scenario",
    "Sinusoid",
    "Sky",
    "SkyAnomaly",
    "SuffixRules",
    "Synthesis",
    "Tabular",
    "TaskFamilies",
    "Trading",
]
