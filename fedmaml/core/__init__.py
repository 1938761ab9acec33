"""The mathematics, in pure PyTorch: neither Flower nor any strategy or scenario is known here."""
