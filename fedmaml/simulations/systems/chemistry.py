"""Molecules as numbers by RDKit (extra ``chemistry``): circular fingerprints and descriptors.

A fingerprint has a bit for every neighbourhood of an atom of up to two bonds, hashed: Rogers, Hahn.
Extended-Connectivity Fingerprints. J. Chem. Inf. Model. 50, 2010.

Some SMILES of FS-Mol write phosphoric acids as ``[PH](=O)(=O)O``, a valence that RDKit refuses:
``P(=O)(O)O`` is meant, and read.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmaml.core.errors import DataError
from fedmaml.core.extras import imported

_BONDS = 2
_PURPOSE = "fingerprint = 'circular'"


def numbers(smiles: Sequence[str], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return fingerprints of 0 or 1, ``(molecules, bits)``, and eight descriptors of each molecule.

    These are weight in Da, logP, polar surface in square angstroms, and numbers of heavy atoms,
    donors and acceptors of hydrogen bonds, rotatable bonds and rings.

    Args:
        smiles: Of the molecules.
        bits: Number of bits.

    Raises:
        ConfigurationError: If RDKit is not installed.
        DataError: If it cannot read one of them.
    """
    found = [_numbers(text, bits) for text in smiles]
    prints = np.frombuffer(b"".join(packed for packed, _ in found), np.uint8)
    rows = np.unpackbits(prints.reshape(len(found), -1), axis=1, count=bits)
    return rows, np.array([counts for _, counts in found], dtype=np.float64)


@lru_cache(maxsize=1 << 18)  # runs of several seeds share molecules
def _numbers(smiles: str, bits: int) -> tuple[bytes, tuple[float, ...]]:
    of = imported("rdkit.Chem.rdMolDescriptors", "chemistry", _PURPOSE)
    molecule = _molecule(smiles)
    counts = (
        of.CalcExactMolWt(molecule),
        of.CalcCrippenDescriptors(molecule)[0],
        of.CalcTPSA(molecule),
        molecule.GetNumHeavyAtoms(),
        of.CalcNumHBD(molecule),
        of.CalcNumHBA(molecule),
        of.CalcNumRotatableBonds(molecule),
        of.CalcNumRings(molecule),
    )
    return np.packbits(_generator(bits).GetFingerprintAsNumPy(molecule)).tobytes(), counts


@lru_cache
def _generator(bits: int) -> Any:
    generators = imported("rdkit.Chem.rdFingerprintGenerator", "chemistry", _PURPOSE)
    return generators.GetMorganGenerator(radius=_BONDS, fpSize=bits)


def _molecule(smiles: str) -> Any:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles, sanitize=False)
        if molecule is not None:
            _acids(molecule, Chem.BondType.DOUBLE, Chem.BondType.SINGLE)
            refused = Chem.SanitizeMol(molecule, catchErrors=True)
    if molecule is None or refused:
        raise DataError(f"RDKit cannot read the SMILES {smiles!r}")
    return molecule


def _acids(molecule: Any, double: Any, single: Any) -> None:
    """Let a phosphorus with a hydrogen and two double bonds give the hydrogen to one oxygen."""
    for atom in molecule.GetAtoms():
        bonds = [bond for bond in atom.GetBonds() if bond.GetBondType() == double]
        if atom.GetSymbol() == "P" and atom.GetNumExplicitHs() == 1 and len(bonds) == 2:
            atom.SetNumExplicitHs(0)
            bonds[0].SetBondType(single)
