"""Stars by site: plates of SDSS, fields of LINEAR, made-up surveys of them, light curves of ASAS.

A site is (x, y): features float64 ``(stars, columns)``, NaN where missing, and classes int64
``(stars,)``.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.simulations.datasets import asas, linear_stars, sdss
from fedmaml.simulations.datasets.suited import suited
from fedmaml.simulations.dealing import numbered
from fedmaml.simulations.scenario import Split
from fedmaml.simulations.systems import light_curves

Site = tuple[Tensor, Tensor]
Kind = Literal["plates", "fields", "surveys", "classes"]
WAYS = 4  # classes of an episode

_FEWEST = 40  # objects of a plate
_STRIPES, _FIELD = 8, 96  # fields of LINEAR: stripes of either coordinate, stars of a field
_IN_BOTH = ("RR_Lyrae_FM", "RR_Lyrae_FO", "W_Ursae_Maj", "Beta_Persei", "Delta_Scuti")
"""The classes of ASAS that LINEAR has too, in its order."""
_PERIOD, _SKEW = 0, 2  # columns of light curves
_ECLIPSING = (2, 3)  # classes
_HALF = float(np.log10(2))
_FEWEST_OF_KIND = 13  # stars; smaller classes are rare
_TRAIN, _VALIDATION = 0.5, 0.15  # of plates and fields
_SURVEYS, _STARS = (60, 30, 60), 120  # surveys that train, validate and test; stars of each
_EPISODES = (200, 40, 150)
_TRAIN_KINDS, _VALIDATION_KINDS = 9, 4
_DRAWS, _OF_DRAW = 20, 105  # of the other survey; stars of each


class Dealt(NamedTuple):
    """All clients.

    Attributes:
        clients: Their numbers by split.
        sites: The stars of each.
        other: The test clients of the other survey.
        known: All stars of the classes that train, where clients have classes of their own.
        left_out: Plates that are no clients, by name, and why.
    """

    clients: dict[Split, range]
    sites: Sequence[Site]
    other: range = range(0)
    known: Site = (torch.zeros(0), torch.zeros(0))
    left_out: Mapping[str, str] = {}


def dealt(kind: Kind, key: int, data_dir: str) -> Dealt:
    """Return clients of a kind, in an order that the key determines."""
    key = seeding.key(key, kind)
    if kind == "classes":
        return _episodes(common_kinds(data_dir), key)
    left_out: dict[str, str] = {}
    every: Sequence[Site]
    if kind == "plates":
        fit, left_out = plates(data_dir)
        every = list(fit.values())
    else:
        every = fields(data_dir)
    sites = [every[place] for place in seeding.permutation(key, [0], len(every))[0].tolist()]
    train, validation = round(_TRAIN * len(sites)), round(_VALIDATION * len(sites))
    test = len(sites) - train - validation
    if kind == "plates":
        return Dealt(numbered(train, validation, test), sites, left_out=left_out)
    if kind == "fields":
        x, y = other_survey(data_dir)
        draws = seeding.permutation(seeding.key(key, "other"), range(_DRAWS), len(y))
        others = [(x[rows], y[rows]) for rows in draws[:, :_OF_DRAW]]
        clients = numbered(train, validation, test + _DRAWS)
        return Dealt(clients, sites + others, clients["test"][test:])
    parts = sites[:train], sites[train : train + validation], sites[train + validation :]
    made: list[Site] = []
    for place, (part, count) in enumerate(zip(parts, _SURVEYS, strict=True)):
        made += surveys(part, seeding.key(key, place), count, _STARS)
    return Dealt(numbered(*_SURVEYS), made)


def _episodes(found: Mapping[str, Tensor], key: int) -> Dealt:
    order = seeding.permutation(key, [0], len(found))[0].tolist()
    stars = [list(found.values())[place] for place in order]
    first_test = _TRAIN_KINDS + _VALIDATION_KINDS
    parts = stars[:_TRAIN_KINDS], stars[_TRAIN_KINDS:first_test], stars[first_test:]
    sites: list[Site] = []
    for place, (own, count) in enumerate(zip(parts, _EPISODES, strict=True)):
        drawn = seeding.permutation(seeding.key(key, place), range(count), len(own))[:, :WAYS]
        sites += [joined([own[kind] for kind in kinds]) for kinds in drawn.tolist()]
    return Dealt(numbered(*_EPISODES), sites, known=joined(parts[0]))


def joined(stars: Sequence[Tensor]) -> Site:
    """Return the stars of several classes, one class after the other, and their labels."""
    counts = torch.tensor([len(own) for own in stars])
    return torch.cat([*stars]), torch.arange(len(stars)).repeat_interleave(counts)


def plates(data_dir: str) -> tuple[dict[str, Site], dict[str, str]]:
    """Return the plates that have at least 40 objects, and of at least two classes.

    The others follow, with the reason.
    """

    def lacking(site: Site) -> str:
        if len(site[1]) < _FEWEST:
            return f"fewer than {_FEWEST} objects"
        return "" if len(set(site[1].tolist())) > 1 else "objects of one class alone"

    return suited(sdss.load(data_dir), lacking)


def fields(data_dir: str) -> tuple[Site, ...]:
    """Return 64 fields of 96 stars: 8 stripes of right ascension, each cut in 8 by declination.

    Features are those of the light curve, which other surveys have, too.
    """
    stars = linear_stars.load(data_dir)
    by_ascension = np.argsort(stars.position[:, 0], kind="stable")
    size = _STRIPES * _FIELD
    sites = []
    for stripe in range(_STRIPES):
        rows = by_ascension[stripe * size : (stripe + 1) * size]
        rows = rows[np.argsort(stars.position[rows, 1], kind="stable")]
        sites += np.split(rows, _STRIPES)
    x, y = torch.from_numpy(stars.x[:, linear_stars.CURVE]), torch.from_numpy(stars.y)
    return tuple((x[rows], y[rows]) for rows in sites)


def surveys(sites: Sequence[Site], key: int, count: int, stars: int) -> list[Site]:
    """Return made-up surveys of the stars of some fields, each with an instrument of its own.

    A survey scales every feature by exp(.3 N) and moves it by .5 N standard deviations; half of
    them report skewness with the other sign, and half take half the period of eclipsing stars.

    Args:
        sites: The fields.
        key: Determines everything.
        count: Surveys.
        stars: Of a survey.
    """
    x, y = (torch.cat([site[part] for site in sites]) for part in (0, 1))
    numbers = range(count)
    chosen = seeding.permutation(seeding.key(key, "stars"), numbers, len(y))[:, :stars]
    scale = (0.3 * seeding.normal(seeding.key(key, "scale"), numbers, x.shape[1])).exp()
    known = torch.where(x.isnan(), x.nanmean(0), x)
    move = 0.5 * known.std(0) * seeding.normal(seeding.key(key, "move"), numbers, x.shape[1])
    coins = seeding.uniform(seeding.key(key, "coins"), numbers, 2) < 0.5
    made = []
    for survey, rows in enumerate(chosen):
        own, labels = x[rows].clone(), y[rows]
        if coins[survey, 0]:
            own[:, _SKEW] *= -1
        if coins[survey, 1]:
            eclipsing = torch.isin(labels, torch.tensor(_ECLIPSING))
            own[eclipsing, _PERIOD] -= _HALF
        made.append((own * scale[survey] + move[survey], labels))
    return made


@lru_cache(maxsize=2)
def other_survey(data_dir: str) -> Site:
    """Return the 238 stars of ASAS whose classes LINEAR has, with the features of its fields."""
    curves = [curve for curve in asas.load(data_dir) if curve.kind in _IN_BOTH]
    x = [light_curves.summary_of(curve.days, curve.magnitude) for curve in curves]
    return torch.stack(x), torch.tensor([_IN_BOTH.index(curve.kind) for curve in curves])


@lru_cache(maxsize=2)
def kinds(data_dir: str) -> dict[str, Tensor]:
    """Return the stars of each class of ASAS, float64 ``(stars, 22)``, classes in their order.

    Takes four seconds of a processor.
    """
    found: dict[str, list[Tensor]] = {}
    for curve in asas.load(data_dir):
        shape = light_curves.shape_of(curve.days, curve.magnitude)
        found.setdefault(curve.kind, []).append(shape)
    return {kind: torch.stack(found[kind]) for kind in sorted(found)}


def common_kinds(data_dir: str) -> dict[str, Tensor]:
    """Return the 20 classes of ASAS that have at least 13 stars."""
    return {kind: x for kind, x in kinds(data_dir).items() if len(x) >= _FEWEST_OF_KIND}
