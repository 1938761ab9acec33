"""Archives of known stars, and new stars of which some are of no known class.

Half of a known class's stars are the archive; 15 % are among the queries of validation, 35 % among
those of the test.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.tasks import Batch
from fedmaml.simulations.datasets import linear_stars
from fedmaml.simulations.systems import skies

TEST_PARTS, _VALIDATION_PARTS = 5, 3
_VALIDATE, _OTHER = 4, 8  # classes of ASAS: anomalies of validation; of validation and test
_ARCHIVE, _VALIDATION = 0.5, 0.15  # of the stars of a known class
_MAX_STARS = 800  # stars of a class of LINEAR


class Dealt(NamedTuple):
    """Stars, of which none is in two places but the rare ones of the test.

    Attributes:
        archive: The known stars, one tensor ``(stars, features)`` for each class.
        validation: Queries; the label after the last known one says "none of them".
        test: Likewise: `TEST_PARTS` with all anomalies; then as many with those of rare classes
            alone, where there are such classes.
    """

    archive: list[Tensor]
    validation: list[Batch]
    test: list[Batch]


def of_asas(key: int, data_dir: str) -> Dealt:
    """Return 12 of the 20 common classes as known, four as anomalies of either split.

    The 26 stars of the eight rare classes are anomalies of the test, too.
    """
    common = skies.common_kinds(data_dir)
    order = seeding.permutation(key, [0], len(common))[0].tolist()
    found = [list(common.values())[place] for place in order]
    rare = [x for kind, x in skies.kinds(data_dir).items() if kind not in common]
    anomalies = torch.cat(found[:_VALIDATE]), torch.cat(found[_VALIDATE:_OTHER])
    return _dealt(found[_OTHER:], anomalies, torch.cat(rare), key)


def of_linear(unseen: str, key: int, data_dir: str) -> Dealt:
    """Return three of the five classes as known; the class after ``unseen`` is validation's."""
    stars = linear_stars.load(data_dir)
    x, y = torch.from_numpy(stars.x), torch.from_numpy(stars.y)
    order = seeding.permutation(key, [0], len(y))[0]
    kinds = [x[order[y[order] == kind][:_MAX_STARS]] for kind in range(len(linear_stars.CLASSES))]
    test = linear_stars.CLASSES.index(unseen)
    validation = (test + 1) % len(kinds)
    known = [own for kind, own in enumerate(kinds) if kind not in (test, validation)]
    return _dealt(known, (kinds[validation], kinds[test]), x[:0], key)


def labelled(kinds: Sequence[Tensor]) -> Batch:
    """Return the stars of several classes with their labels."""
    return Batch(*skies.joined(kinds))


def _dealt(
    known: Sequence[Tensor], anomalies: tuple[Tensor, Tensor], rare: Tensor, key: int
) -> Dealt:
    archive, validate, test = zip(
        *(_cut(stars, seeding.key(key, "stars", kind)) for kind, stars in enumerate(known)),
        strict=True,
    )
    validation = _parts(validate, anomalies[0], _VALIDATION_PARTS, seeding.key(key, "validation"))
    everything = torch.cat([anomalies[1], rare])
    tests = _parts(test, everything, TEST_PARTS, seeding.key(key, "test"))
    if len(rare):
        tests += _parts(test, rare, TEST_PARTS, seeding.key(key, "rare"))
    return Dealt(list(archive), validation, tests)


def _cut(stars: Tensor, key: int) -> list[Tensor]:
    order = seeding.permutation(key, [0], len(stars))[0]
    ends = [round(share * len(stars)) for share in (_ARCHIVE, _ARCHIVE + _VALIDATION)]
    return [stars[rows] for rows in order.tensor_split(ends)]


def _parts(known: Sequence[Tensor], anomalies: Tensor, count: int, key: int) -> list[Batch]:
    """Return queries that share no star, each with about the same share of anomalies."""
    x, y = skies.joined([*known, anomalies])
    order = seeding.permutation(key, [0], len(y))[0]
    order = order[(y[order] == len(known)).long().argsort(stable=True)]
    return [Batch(x[rows], y[rows]) for rows in (order[part::count] for part in range(count))]
