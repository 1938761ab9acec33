"""The engine `fused`, for small networks."""

from fedmaml.computing.engines.fused.engine import Fused

__all__ = ["Fused"]
