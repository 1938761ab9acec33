"""The measured cases: workload, algorithm, number of clients, and how many of them a loop gets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.engine import workloads
from benchmarks.engine.rounds import Algorithm, Round
from benchmarks.engine.workloads import Workload

SIZES = ("1e3", "1e4", "1e5", "1e6", "1e7")
"""Parameters of the fully connected networks."""

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "W1": workloads.sinusoid,
    "W2": workloads.hospital,
    "W2-unequal": partial(workloads.hospital, 8, 64),
    "W3": workloads.omniglot,
    "W4": workloads.femnist,
    "GRU": workloads.recurrent,
    "C4": workloads.conv4,
    **{f"MLP-{size}": partial(workloads.perceptron, float(size)) for size in SIZES},
}


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: As given to --cases.
        workload: One of `WORKLOADS`.
        algorithm: The algorithm.
        clients: Number of clients in a round.
        few: Number of clients for contenders that compute one after the other: their time per
            client does not depend on it.
        together: Number of clients for contenders that hold all weights at a time; 0: all.
        steps: Of the inner loop.
        base: Contender whose time the others are compared to.
        flower: Clients of Flower's own simulation; 0 leaves it out.
        tolerance: Relative difference to float64 past which a float32 result is wrong. Where the
            network pools, rounding may decide which of two nearly equal pixels is the larger, in
            any contender, and a client's gradient then goes another way.
    """

    name: str
    workload: str
    algorithm: Algorithm
    clients: int
    few: int
    steps: int = 5
    base: str = "deepcopy loop"
    flower: int = 0
    tolerance: float = 1e-4
    together: int = 0

    def round(self) -> Round:
        """Draw the data."""
        workload = WORKLOADS[self.workload]()
        return Round(workload, self.algorithm, self.steps, workload.tasks(self.clients))

    def quick(self) -> "Case":
        """Return the case with so few clients that it takes seconds; its figures mean little."""
        small = min(self.clients, 32 if self.few > 4 else 2)
        together, flower = min(self.together, small), min(self.flower, 8)
        return replace(self, clients=small, few=min(self.few, 2), together=together, flower=flower)


CASES = (
    Case("W1-fomaml", "W1", "fomaml", 1000, 16),
    Case("W1-maml", "W1", "maml", 1000, 16, base="learn2learn"),
    Case("W1-reptile", "W1", "reptile", 1000, 16),
    Case("W1-fomaml-25", "W1", "fomaml", 25, 16),
    Case("W1-maml-25", "W1", "maml", 25, 16, base="learn2learn"),
    Case("W2-fomaml", "W2", "fomaml", 2000, 16, flower=2000),
    Case("W2-maml", "W2", "maml", 2000, 16, base="learn2learn"),
    Case("W2-fomaml-10", "W2", "fomaml", 10, 10),
    Case("W2-meta_sgd", "W2", "meta_sgd", 2000, 16, base="JAX jit(lax.map of vmap)"),
    Case("W2-anil", "W2", "anil", 2000, 16, base="JAX jit(lax.map of vmap)"),
    Case("W2-fedrep", "W2", "fedrep", 2000, 16, base="JAX jit(lax.map of vmap)"),
    Case("W2-protonet", "W2", "protonet", 2000, 16, base="JAX jit(lax.map of vmap)"),
    Case("W2-unequal", "W2-unequal", "fomaml", 2000, 16),
    Case("W3-fomaml-1", "W3", "fomaml", 8, 2, steps=1, tolerance=0.02),
    Case("W3-fomaml", "W3", "fomaml", 8, 2, tolerance=0.02),
    Case("W3-maml-1", "W3", "maml", 8, 2, steps=1, base="learn2learn", tolerance=0.02),
    Case("W3-protonet", "W3", "protonet", 8, 2, tolerance=0.02),
    Case("C4-fomaml-1", "C4", "fomaml", 8, 2, steps=1, tolerance=0.02),
    Case("GRU-fomaml", "GRU", "fomaml", 16, 4, base="learn2learn"),
    # The weights of 20 clients are 530 MB, and a vectorised step holds several copies.
    Case("W4-fomaml", "W4", "fomaml", 50, 2, tolerance=0.02, together=20),
    Case("MLP-1e6", "MLP-1e6", "fomaml", 32, 4),
    Case("MLP-1e7", "MLP-1e7", "fomaml", 8, 2),
)

CLIENT_SWEEP = tuple(
    Case(f"W2-fomaml-{clients}", "W2", "fomaml", clients, min(clients, 16))
    for clients in (10, 32, 100, 320, 1000, 3200, 10_000)
)
"""For the figure of time against clients."""

SIZE_SWEEP = tuple(
    Case(f"MLP-{size}-sweep", f"MLP-{size}", "fomaml", clients, 2)
    for size, clients in zip(SIZES, (256, 256, 128, 32, 8), strict=True)
)
"""For the figure of time against parameters."""
