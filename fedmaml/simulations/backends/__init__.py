"""How messages travel; every back end runs the same two apps, which are handed to it by name."""
