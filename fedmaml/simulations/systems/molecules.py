"""Molecules as numbers, by the text of their SMILES alone (`systems.chemistry` needs RDKit).

A fingerprint has a bit for every substring of three to five characters (a LINGO), hashed; ring
numbers are taken as one, and two-letter elements as one character. Vidal, Thormann, Pons. LINGO, an
Efficient Holographic Text Based Method to Calculate Biophysical Properties and Intermolecular
Similarities. J. Chem. Inf. Model. 45, 2005.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DESCRIPTORS = 8
_LENGTHS = (3, 4, 5)
_ATOMS = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops]")
_RINGS = re.compile(r"%\d\d|\d")
_IN_BRACKETS = re.compile(r"\[[^\]]*\]")
_MIXED = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing


def numbers(smiles: Sequence[str], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return `fingerprints` and `descriptors` of molecules.

    Args:
        smiles: Of the molecules.
        bits: Number of bits.
    """
    counts = np.array([descriptors(text) for text in smiles], dtype=np.float64)
    return fingerprints(smiles, bits), counts


def fingerprints(smiles: Sequence[str], bits: int) -> NDArray[np.uint8]:
    """Return 0 or 1 for each bit, ``(molecules, bits)``.

    Args:
        smiles: Of the molecules.
        bits: Number of bits.
    """
    texts = [_plain(text).encode() for text in smiles]
    found = np.zeros((len(texts), bits), np.uint8)
    letters = np.frombuffer(b"".join(texts), np.uint8).astype(np.uint64)
    sizes = np.array([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), sizes)
    for length in _LENGTHS:
        count = len(letters) - length + 1
        if count < 1:
            break
        word = np.zeros(count, np.uint64)
        for place in range(length):
            word = word * np.uint64(256) + letters[place : place + count]
        whole = owner[:count] == owner[length - 1 :]  # within one molecule
        with np.errstate(over="ignore"):
            hashed = ((word * _MIXED) >> np.uint64(32)) % np.uint64(bits)
        found[owner[:count][whole], hashed[whole].astype(np.intp)] = 1
    return found


def descriptors(smiles: str) -> tuple[int, ...]:
    """Return numbers of heavy atoms, N, O, S, halogens, aromatic atoms, rings and branches."""
    atoms = [atom.strip("[]0123456789") for atom in _ATOMS.findall(smiles)]
    first = [atom[:2] if atom[:2] in ("Br", "Cl") else atom[:1] for atom in atoms]
    element = [each.upper() for each in first]
    rings = len(_RINGS.findall(_IN_BRACKETS.sub("", smiles))) // 2
    return (
        sum(each != "H" for each in element),
        *(element.count(letter) for letter in "NOS"),
        sum(element.count(halogen) for halogen in ("F", "CL", "BR", "I")),
        sum(each.islower() for each in first),
        rings,
        smiles.count("("),
    )


def similarity(left: Tensor, right: Tensor) -> Tensor:
    """Return Tanimoto's similarity of bits: common ones over all, ``(left, right)``; 0 of none."""
    common = left @ right.T
    either = left.sum(1)[:, None] + right.sum(1) - common
    return torch.where(either > 0, common / either.clamp(min=1), 0.0)


def _plain(smiles: str) -> str:
    short = smiles.replace("Cl", "L").replace("Br", "R")
    return re.sub(r"%\d\d|[1-9]", "0", short)
