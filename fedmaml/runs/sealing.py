"""Files of tensors and texts that hold the SHA-256 of all their bytes: safetensors, sealed.

The digest stands among the texts. It is computed over the file in which zeros stand at its place,
so a single flipped bit anywhere in the file is found, in the header, too.
"""

import hashlib
import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_KEY = b'"sha256":"'
_UNKNOWN = "0" * 64


def seal(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> tuple[list[bytes], str]:
    """Return the parts of a file, which remembers the order of the tensors, and its SHA-256."""
    written = {**texts, "names": json.dumps(list(tensors)), "sha256": _UNKNOWN}
    # Copies: the same tensor may stand at two places, which safetensors refuses.
    content = save({name: value.detach().clone() for name, value in tensors.items()}, written)
    start = content.index(_KEY) + len(_KEY)
    digest = hashlib.sha256(content).hexdigest()
    return [content[:start], digest.encode(), content[start + len(digest) :]], digest


def unseal(content: bytes) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Undo `seal`: return the tensors, the texts and the SHA-256.

    Raises:
        ValueError: If the content is not that of a sealed file, bit for bit.
    """
    start = content.find(_KEY) + len(_KEY)
    end = start + len(_UNKNOWN)
    digest = hashlib.sha256(content[:start])
    digest.update(_UNKNOWN.encode())
    digest.update(memoryview(content)[end:])
    sha256 = digest.hexdigest()
    if sha256.encode() != content[start:end]:
        raise ValueError("its SHA-256 is not that of its content")
    try:
        texts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        tensors = load(content)
        return {name: tensors[name] for name in json.loads(texts["names"])}, texts, sha256
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
