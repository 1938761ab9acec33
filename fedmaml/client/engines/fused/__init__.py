"""The engine `fused`, for small networks."""

from fedmaml.client.engines.fused.engine import Fused

__all__ = ["Fused"]
