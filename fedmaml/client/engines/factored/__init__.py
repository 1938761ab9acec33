"""The engine `factored`, for large networks."""

from fedmaml.client.engines.factored.engine import Factored

__all__ = ["Factored"]
