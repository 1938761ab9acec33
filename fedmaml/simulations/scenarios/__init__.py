"""The scenarios by name. A new one is a file here and a line in `CATALOGUE`."""

from fedmaml.simulations.scenario import Scenario
from fedmaml.simulations.scenarios.digits import Digits
from fedmaml.simulations.scenarios.hospitals import Hospitals
from fedmaml.simulations.scenarios.quadratic import Quadratic
from fedmaml.simulations.scenarios.sinusoid import Sinusoid

CATALOGUE: dict[str, type[Scenario]] = {
    "quadratic": Quadratic,
    "sinusoid": Sinusoid,
    "digits": Digits,
    "hospitals": Hospitals,
}

__all__ = ["CATALOGUE", "Digits", "Hospitals", "Quadratic", "Scenario", "Sinusoid"]
