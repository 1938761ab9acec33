"""The Flower side of a site: it reads requests, lets `computing` work, and replies."""

from fedmaml.client.replies import evaluate_reply, train_reply

__all__ = ["evaluate_reply", "train_reply"]
