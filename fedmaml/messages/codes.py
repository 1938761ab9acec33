"""Compression in messages: the setting in a request, and compressed updates as bytes.

A compressed update is one array for each group, a row of bytes for each client. One array, like an
update that is not compressed, as every array of a message is a request of its own. Numbers are
little-endian; the length of a row depends on the method and the network alone.
"""

import json
from dataclasses import asdict

import torch
from torch import Tensor

from fedmaml.core.compression import NO_COMPRESSION, Compression
from fedmaml.core.compressors import Compressor, from_bytes
from fedmaml.core.errors import MessageError


def compression_text(compression: Compression) -> str:
    """Return the setting as one string; "" if nothing is compressed."""
    return "" if compression.compressor() is None else json.dumps(asdict(compression))


def read_compression(text: str) -> Compression:
    """Undo `compression_text`."""
    return Compression(**json.loads(text)) if text else NO_COMPRESSION


def decoded(
    group: str, rows: Tensor, compressor: Compressor, entries: int, dtype: torch.dtype
) -> Tensor:
    """Decode rows of bytes to updates, ``(clients, entries)``.

    They may still not be finite.

    Raises:
        MessageError: "CODE", if the method can have made no such bytes.
    """
    code = from_bytes(rows, compressor.layout(entries, dtype))
    if flaw := compressor.flaw(code, entries):
        raise MessageError("CODE", f"the compressed update of group {group!r} has {flaw}")
    return compressor.decode(code, entries, dtype)
