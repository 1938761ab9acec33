"""My app: a Flower app."""
