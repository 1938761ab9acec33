"""The engine `factored`, for large networks."""

from fedmaml.computing.engines.factored.engine import Factored

__all__ = ["Factored"]
