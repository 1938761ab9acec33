"""Compressors of updates: a pair of pure functions each, before and after the wire.

`TopK` keeps the largest entries, `QSGD` rounds at random to a few levels, `Float16` rounds to
nearest. Each vector is compressed by itself.

Alistarh, Grubic, Li, Tomioka, Vojnovic. QSGD. NeurIPS 2017. arXiv:1610.02132
Stich, Cordonnier, Jaggi. Sparsified SGD with memory. NeurIPS 2018. arXiv:1809.07599
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

Code = dict[str, Tensor]
"""Part -> its values, shape ``(clients, count)``."""

CodeLayout = dict[str, tuple[torch.dtype, int]]
"""Part -> type and count of one client's values."""

BUCKET = 256
"""Entries that share a scale in QSGD.

The error of a bucket is largest against its norm if one entry is 1 and the others have the level f
of (0, 1); then it is (B - 1) f (1 - f) / (s^2 + (B - 1) f^2). For s = 7 and B = 256 that is at most
0.75, so that even 4 bits are a contraction in the mean, which error feedback needs; for the paper's
B = 512 it reaches 1.2. A scale of 4 bytes for 256 entries is 0.125 bits an entry.
"""


class Compressor(ABC):
    """A pair of functions; both see the updates of many clients, each by itself.

    Attributes:
        feedback: Whether clients keep what a code leaves out, unless a setting says otherwise.
    """

    feedback: ClassVar[bool] = False

    @abstractmethod
    def layout(self, entries: int, dtype: torch.dtype) -> CodeLayout:
        """Return the parts of one client's code: types and counts, whatever its values."""

    @abstractmethod
    def encode(self, vectors: Tensor, draw: Callable[[], Tensor]) -> Code:
        """Compress.

        Args:
            vectors: Finite, shape ``(clients, entries)``.
            draw: Returns numbers from the open interval (0, 1), float64, of the same shape; called
                only by random rounding.
        """

    @abstractmethod
    def decode(self, code: Code, entries: int, dtype: torch.dtype) -> Tensor:
        """Undo `encode` as far as possible; shape ``(clients, entries)``."""

    @abstractmethod
    def flaw(self, code: Code, entries: int) -> str:
        """Return why no `encode` can have made this code, whose layout is right; "" if one can.

        Values that are not finite are found after decoding.
        """


@dataclass(frozen=True)
class TopK(Compressor):
    """The k = ceil(fraction * entries) entries largest in magnitude, with their positions.

        |x - C(x)|^2 <= (1 - k/d) |x|^2                          Stich et al. 2018, Definition 2.1

    Of entries equal in magnitude the first are kept, so the code depends on the vector alone.

    Attributes:
        fraction: Of (0, 1].
    """

    fraction: float
    feedback: ClassVar[bool] = True

    def count(self, entries: int) -> int:
        """Return k; a rounding error of the product adds no entry."""
        return max(1, math.ceil(self.fraction * entries - 1e-9))

    def layout(self, entries: int, dtype: torch.dtype) -> CodeLayout:
        """Return positions, ascending, and values."""
        positions = torch.int32 if entries <= 2**31 else torch.int64
        return {
            "positions": (positions, self.count(entries)),
            "values": (dtype, self.count(entries)),
        }

    def encode(self, vectors: Tensor, draw: Callable[[], Tensor]) -> Code:
        """Compress; nothing is drawn."""
        entries, count = vectors.shape[1], self.count(vectors.shape[1])
        sizes = vectors.abs()
        smallest = sizes.topk(count, sorted=False).values.amin(-1, keepdim=True)
        above, equal = sizes > smallest, sizes == smallest
        room = count - above.sum(-1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(-1) <= room))
        positions = chosen.nonzero()[:, 1].reshape(len(vectors), count)
        kind = self.layout(entries, vectors.dtype)["positions"][0]
        return {"positions": positions.to(kind), "values": vectors.gather(1, positions)}

    def decode(self, code: Code, entries: int, dtype: torch.dtype) -> Tensor:
        """Return the entries that were sent, and zeros elsewhere."""
        values = code["values"]
        return torch.zeros(len(values), entries, dtype=dtype).scatter(
            1, code["positions"].to(torch.int64), values
        )

    def flaw(self, code: Code, entries: int) -> str:
        """Check that positions exist, each at most once."""
        positions = code["positions"].to(torch.int64)
        if bool(((positions < 0) | (positions >= entries)).any()):
            return f"a position outside 0 to {entries - 1}"
        if bool((positions.diff(dim=-1) <= 0).any()):
            return "positions that do not ascend (one is there twice, or they are out of order)"
        return ""


@dataclass(frozen=True)
class QSGD(Compressor):
    """Random rounding to s levels of either sign; a bucket is scaled by its largest entry.

        Q(x_i) = M sign(x_i) xi_i / s,   xi_i in {floor, ceil} of s |x_i| / M,   E Q(x) = x
        E |Q(x) - x|^2 <= min(d / s^2, sqrt(d) / s) |x|^2, d the entries of a bucket    Lemma 3.1

    Deviations: M is the largest magnitude of the bucket, not its 2-norm: the variant of the paper's
    experiments. The bound holds for it, too, as M is at most the norm: with p the probability of
    rounding up, the error is (M/s)^2 sum p (1 - p), and p (1 - p) <= min(1/4, s |x_i| / M). Unlike
    a norm, a largest number has the same bits however it is computed. Levels have a fixed length,
    where the paper's theory takes Elias codes.

    Attributes:
        bits: 8 (s = 127) or 4 (s = 7, two to a byte).
    """

    bits: Literal[8, 4]

    @property
    def levels(self) -> int:
        """Return s, the largest level that fits into the bits beside the sign."""
        return int(2 ** (self.bits - 1) - 1)

    def layout(self, entries: int, dtype: torch.dtype) -> CodeLayout:
        """Return one scale for each bucket, and the levels."""
        scales = (dtype, math.ceil(entries / BUCKET))
        if self.bits == 8:
            return {"scales": scales, "levels": (torch.int8, entries)}
        return {"scales": scales, "levels": (torch.uint8, math.ceil(entries / 2))}

    def encode(self, vectors: Tensor, draw: Callable[[], Tensor]) -> Code:
        """Compress; one number is drawn for each entry."""
        clients, entries = vectors.shape
        buckets = _in_buckets(vectors)
        scales = buckets.abs().amax(-1, keepdim=True)
        safe = torch.where(scales > 0, scales, 1).to(torch.float64)
        exact = buckets.abs().to(torch.float64) / safe * self.levels
        # floor(x + u) is ceil(x) with the probability x - floor(x); the sum may round to s + 1
        rounded = (exact + _in_buckets(draw())).floor().clamp(max=self.levels)
        signed = (rounded * buckets.sign()).to(torch.int8).reshape(clients, -1)[:, :entries]
        packed = signed if self.bits == 8 else pack_nibbles(signed)
        return {"scales": scales.squeeze(-1), "levels": packed}

    def decode(self, code: Code, entries: int, dtype: torch.dtype) -> Tensor:
        """Return scale * level / s."""
        levels = self._unpacked(code)[:, :entries].to(dtype) / self.levels
        scaled = _in_buckets(levels) * code["scales"][..., None]
        return scaled.reshape(len(levels), -1)[:, :entries].contiguous()

    def flaw(self, code: Code, entries: int) -> str:
        """Check that levels exist and scales are not negative."""
        if bool((self._unpacked(code).to(torch.int16).abs() > self.levels).any()):
            return f"a level outside -{self.levels} to {self.levels}"
        return "a negative scale" if bool((code["scales"] < 0).any()) else ""

    def _unpacked(self, code: Code) -> Tensor:
        return code["levels"] if self.bits == 8 else unpack_nibbles(code["levels"])


@dataclass(frozen=True)
class Float16(Compressor):
    """IEEE half precision, rounded to nearest.

        |x - C(x)| <= 2^-11 |x|  for 2^-14 <= |x| < 65520,    <= 2^-25 below

    Past that it becomes infinity, and the update is left out like any that is not finite.
    """

    def layout(self, entries: int, dtype: torch.dtype) -> CodeLayout:
        """Return the values."""
        return {"values": (torch.float16, entries)}

    def encode(self, vectors: Tensor, draw: Callable[[], Tensor]) -> Code:
        """Compress; nothing is drawn."""
        return {"values": vectors.to(torch.float16)}

    def decode(self, code: Code, entries: int, dtype: torch.dtype) -> Tensor:
        """Return the values in another type."""
        return code["values"].to(dtype)

    def flaw(self, code: Code, entries: int) -> str:
        """Return "": every code is valid."""
        return ""


def compressor(method: str, fraction: float) -> Compressor:
    """Return the compressor of a method of `core.compression`; "top-k" takes the fraction."""
    makers: dict[str, Callable[[], Compressor]] = {
        "float16": Float16,
        "qsgd-8": lambda: QSGD(8),
        "qsgd-4": lambda: QSGD(4),
        "top-k": lambda: TopK(fraction),
    }
    return makers[method]()


def pack_nibbles(levels: Tensor) -> Tensor:
    """Put two levels of -7 to 7 into a byte, the first into its lower half.

    Args:
        levels: int8, shape ``(clients, count)``.

    Returns:
        uint8, shape ``(clients, ceil(count / 2))``; -7 to 7 are stored as 1 to 15.
    """
    stored = (pad(levels, (0, levels.shape[1] % 2)) + 8).to(torch.uint8)
    return stored[:, 0::2] | (stored[:, 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Undo `pack_nibbles`, int8; an odd count gets one 0 more at the end."""
    halves = torch.stack([packed & 15, packed >> 4], -1)
    return halves.reshape(len(packed), 2 * packed.shape[1]).to(torch.int8) - 8


def _in_buckets(vectors: Tensor) -> Tensor:
    """Return ``(clients, buckets, BUCKET)``, zeros where the last bucket is not full."""
    clients, entries = vectors.shape
    count = math.ceil(entries / BUCKET)
    return pad(vectors, (0, count * BUCKET - entries)).reshape(clients, count, BUCKET)


def to_bytes(code: Code) -> Tensor:
    """Return uint8, shape ``(clients, bytes)``: the parts of each client's code in a row."""
    columns = []
    for part in code.values():
        values = np.ascontiguousarray(part.numpy())
        columns.append(values.astype(values.dtype.newbyteorder("<"), copy=False).view(np.uint8))
    return torch.from_numpy(np.concatenate(columns, axis=1))


def from_bytes(rows: Tensor, layout: CodeLayout) -> Code:
    """Undo `to_bytes` of codes of a layout."""
    code: Code = {}
    first = 0
    for name, (dtype, count) in layout.items():
        last = first + count * dtype.itemsize
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        values = np.ascontiguousarray(rows[:, first:last].numpy()).view(kind.newbyteorder("<"))
        code[name] = torch.from_numpy(values.astype(kind))
        first = last
    return code
