"""The engines `factored` and `pooled`, for large networks."""

from fedmaml.client.engines.factored.engine import Factored, Pooled

__all__ = ["Factored", "Pooled"]
