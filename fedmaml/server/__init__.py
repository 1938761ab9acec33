"""The Flower side of the server: cohort, requests, checks, aggregation, outer step, records."""

from fedmaml.server.flower_strategy import FlowerStrategy

__all__ = ["FlowerStrategy"]
