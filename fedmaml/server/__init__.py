"""What the coordinator does: choose a cohort, ask, check, aggregate, step, write down."""

from fedmaml.server.flower_strategy import FlowerStrategy

__all__ = ["FlowerStrategy"]
