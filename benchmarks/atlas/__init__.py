"""The atlas: where federated meta-learning helps over a federation, and where it does not."""
