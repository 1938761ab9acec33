"""Assays of FS-Mol dealt to clients, their molecules as numbers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.simulations.datasets import fsmol
from fedmaml.simulations.datasets.suited import suited
from fedmaml.simulations.datasets.twins import rows_of_owners
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.scenario import Split

Numbers = Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]
"""SMILES and the number of bits -> fingerprints and descriptors, a row for each molecule."""

_TRAIN, _VALIDATION, _MAX_MOLECULES = 500, 40, 400  # assays; molecules of those that do not test


class Assay(NamedTuple):
    """The molecules of an assay, of those with equal fingerprints the first.

    Attributes:
        bits: Fingerprints, uint8 ``(molecules, bits)``.
        counts: Descriptors, float64 ``(molecules, 8)``.
        active: int64 ``(molecules,)``.
    """

    bits: Tensor
    counts: Tensor
    active: Tensor


class Dealt(NamedTuple):
    """All clients.

    Attributes:
        clients: Their numbers by split.
        assays: The assay of each.
        targets: Its target protein, as numbered by ChEMBL.
        left_out: Assays that can be no clients, by name, and why.
    """

    clients: dict[Split, range]
    assays: tuple[Assay, ...]
    targets: tuple[str, ...]
    left_out: dict[str, str]


def dealt(
    key: int,
    fewest: int,
    fewest_each: int,
    fewest_distinct: int,
    numbers: Numbers,
    bits: int,
    data_dir: str,
) -> Dealt:
    """Return clients: 500 assays train, 40 validate, the published validation assays test.

    Of the chosen ones those are left out that have too few molecules with a fingerprint of their
    own, so there may be fewer.

    Args:
        key: Determines who trains and who validates.
        fewest: Molecules that an assay has at least.
        fewest_each: Active ones that it has at least, and inactive ones.
        fewest_distinct: Molecules with a fingerprint of their own that it has at least.
        numbers: Molecules as numbers, of `molecules` or of `chemistry`.
        bits: Of a fingerprint.
        data_dir: Folder with the data, see `datasets.fsmol.load`.
    """
    everything, smiles = fsmol.load(data_dir)
    fit, left_out = suited(
        {assay.name: assay for assay in everything},
        lambda assay: _lacking(assay, fewest, fewest_each),
    )
    large = [assay.name for assay in fit.values() if assay.split == "train" and _is_large(assay)]
    left_out |= dict.fromkeys(large, f"more than {_MAX_MOLECULES} molecules")
    parts = _chosen(list(fit.values()), key)
    used = np.unique(np.concatenate([assay.molecules for part in parts for assay in part]))
    prints, counts = numbers([smiles[place] for place in used], bits)
    own = [[(each, _as_numbers(each, used, prints, counts)) for each in part] for part in parts]
    few = [each.name for part in own for each, found in part if len(found.active) < fewest_distinct]
    left_out |= dict.fromkeys(few, f"fewer than {fewest_distinct} distinct molecules")
    kept = [[pair for pair in part if pair[0].name not in left_out] for part in own]
    return Dealt(
        numbered(*map(len, kept)),
        tuple(found for part in kept for _, found in part),
        tuple(each.target for part in kept for each, _ in part),
        left_out,
    )


def _chosen(
    enough: Sequence[fsmol.Assay], key: int
) -> tuple[list[fsmol.Assay], list[fsmol.Assay], list[fsmol.Assay]]:
    """Return who trains, validates (no two with one target) and tests; they share no target."""
    test = [assay for assay in enough if assay.split == "valid"]
    order = seeding.permutation(key, [0], len(enough))[0].tolist()
    pool = [enough[place] for place in order if enough[place].split == "train"]
    pool = [assay for assay in pool if not _is_large(assay)]
    first_of_target = {assay.target: assay for assay in reversed(pool)}
    validation = [assay for assay in pool if assay is first_of_target[assay.target]][:_VALIDATION]
    taken = {assay.target for assay in validation}
    train = [assay for assay in pool if assay.target not in taken][:_TRAIN]
    return train, validation, test


def _is_large(assay: fsmol.Assay) -> bool:
    return len(assay.active) > _MAX_MOLECULES


def _lacking(assay: fsmol.Assay, fewest: int, fewest_each: int) -> str:
    active, everyone = int(assay.active.sum()), len(assay.active)
    if everyone < fewest:
        return f"fewer than {fewest} molecules"
    if active < fewest_each:
        return f"fewer than {fewest_each} active molecules"
    return f"fewer than {fewest_each} inactive molecules" if everyone - active < fewest_each else ""


def _as_numbers(
    assay: fsmol.Assay, used: np.ndarray, prints: np.ndarray, counts: np.ndarray
) -> Assay:
    rows = np.searchsorted(used, assay.molecules)
    (own,) = rows_of_owners(np.zeros(len(rows)), prints[rows])
    return Assay(
        torch.from_numpy(prints[rows[own]]),
        torch.from_numpy(counts[rows[own]]),
        torch.from_numpy(assay.active[own].astype(np.int64)),
    )
