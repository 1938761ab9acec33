"""The computation of clients: updates, evaluations, their costs, engines. No Flower here."""
