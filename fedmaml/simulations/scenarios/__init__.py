"""The scenarios by name. A new one is a file here and a line in `CATALOGUE`."""

from fedmaml.core.plugins import installed
from fedmaml.simulations.scenario import Scenario
from fedmaml.simulations.scenarios.digits import Digits
from fedmaml.simulations.scenarios.hospitals import Hospitals
from fedmaml.simulations.scenarios.quadratic import Quadratic
from fedmaml.simulations.scenarios.sinusoid import Sinusoid

CATALOGUE: dict[str, type[Scenario]] = installed(
    "fedmaml.scenarios",
    {
        "quadratic": Quadratic,
        "sinusoid": Sinusoid,
        "digits": Digits,
        "hospitals": Hospitals,
    },
)
"""Scenarios of this package, and of installed packages (entry points "fedmaml.scenarios")."""

__all__ = ["CATALOGUE", "Digits", "Hospitals", "Quadratic", "Scenario", "Sinusoid"]
