"""Randomness as a function: (seed, purpose, round, client) determine every draw.

No generator is ever stored or shared, so the number of workers, the order of clients and a restart
change nothing. `generator` serves rare draws (initial parameters). `uniform`, `normal` and
`permutation` draw for many clients in one pass; a client's numbers are the same whether it is drawn
alone or among thousands.

The vectorised draws use SplitMix64 (Steele, Lea, Flood. Fast splittable pseudorandom number
generators. OOPSLA 2014) as a counter-based generator, keyed with SHA-256.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(seed: int, *path: str | int) -> int:
    """Return 63 bits that depend on every part of the path."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a fresh CPU generator for one purpose."""
    return torch.Generator().manual_seed(key(seed, *path))


@contextmanager
def isolated(rng: torch.Generator) -> Iterator[None]:
    """Let code that draws from torch's global generator (module constructors) draw from ``rng``.

    The state of the global generator is restored afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        yield


def uniform(key_: int, clients: Sequence[int], *shape: int) -> Tensor:
    """Draw from the open interval (0, 1).

    Args:
        key_: From `key`.
        clients: Client numbers, >= 0.
        *shape: Shape of one client's draw.

    Returns:
        float64 tensor of shape ``(clients, *shape)``; row i depends on key and clients[i] only.
    """
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        stream = _mix(_mix(np.asarray(clients, dtype=np.uint64) * _GOLDEN) ^ np.uint64(key_))
        counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(stream[:, None] + counter[None, :])
    values = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return torch.from_numpy(values.reshape(len(clients), *shape))


def normal(key_: int, clients: Sequence[int], *shape: int) -> Tensor:
    """Draw from the standard normal distribution; arguments and shape as in `uniform`."""
    return torch.special.ndtri(uniform(key_, clients, *shape))


def permutation(key_: int, clients: Sequence[int], length: int, *rows: int) -> Tensor:
    """Draw permutations of 0..length-1, int64, shape ``(clients, *rows, length)``."""
    return uniform(key_, clients, *rows, length).argsort(dim=-1)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
