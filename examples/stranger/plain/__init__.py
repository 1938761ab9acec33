"""The app as Flower's quick start writes it, with FedAvg."""
