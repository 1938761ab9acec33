"""What a client computes: updates, evaluations, their costs, and the engines. No Flower here."""
