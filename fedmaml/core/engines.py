"""The names of the engines and a line about each, which settings and lists need without PyTorch.

`fedmaml.computing.engines` holds the engines themselves.
"""

ABOUT = {
    "fused": "small fully connected networks in C++, a client per vector lane",
    "factored": "large networks; fast weights of linear layers in factors",
    "shared": "no fast weights: the examples of all clients through shared weights",
    "vmap": "many clients in one torch.func.vmap",
    "loop": "one client after the other; the reference",
}
"""Name -> one line; the order is that in which "auto" tries them."""
