"""What a site computes, and how it answers the server."""

from fedmaml.client.replies import evaluate_reply, train_reply

__all__ = ["evaluate_reply", "train_reply"]
