"""Clients whose data do not suit a scenario are named, with the reason, and take no part."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedmaml.simulations.returned import left_out_of
from fedmaml.simulations.scenarios import CATALOGUE

KNOWN: tuple[tuple[str, dict[str, Any], int, str, dict[str, int]], ...] = (
    ("malaria", {}, 122, "C1", {"no infected cells": 50, "fewer than 10 infected cells": 28}),
    ("glucose", {}, 227, "D1NAMO 002", {
        "fewer than 96 windows in the first two days": 26,
        "fewer than 96 windows after two days": 194, "fewer than 350 windows": 5,
    }),
    ("femnist", {}, 95, "f3459_46", {"fewer than 120 images": 10}),
    ("movies", {}, 607, "user 175", {"fewer than 15 ratings of known films": 3}),
    ("roles", {}, 359, "Both in alls_well_that_ends_well", {"fewer than 3,000 letters": 998}),
    ("morphology", {}, 448, "azeri N;NOM;SG", {
        "fewer than 40 words": 482, "one script makes 90% of the forms": 39,
    }),
    ("graph_nodes", {"data": "cora"}, 17, "community 9", {"fewer than 30 papers": 7}),
    ("graph_nodes", {"data": "citeseer"}, 17, "community 16", {"fewer than 30 papers": 7}),
    ("sky", {}, 73, "plate 291", {"fewer than 40 objects": 404, "objects of one class alone": 10}),
    ("sky", {"data": "fields"}, 84, "", {}),
)  # fmt: skip
"""Scenario, settings, clients that take part, somebody who does not, and the reasons' counts."""


@pytest.mark.parametrize(
    ("name", "settings", "clients", "somebody", "reasons"),
    [pytest.param(*case, id="-".join([case[0], *case[1].values()])) for case in KNOWN],
)
def test_those_who_take_part_and_those_who_do_not_are_the_known_ones(
    name: str, settings: dict[str, Any], clients: int, somebody: str, reasons: dict[str, int],
    data_dir: Path,
) -> None:  # fmt: skip
    scenario = CATALOGUE[name](**settings, data_dir=str(data_dir))
    left_out = left_out_of(scenario)
    assert sum(map(len, scenario.clients().values())) == clients
    assert Counter(left_out.values()) == reasons
    assert not somebody or somebody in left_out


def test_assays_that_are_too_small_too_large_or_of_one_kind_are_named(data_dir: Path) -> None:
    """Of the others, 4,974 - 2,925, those are clients whom the seed draws."""
    left_out = left_out_of(CATALOGUE["molecules"](data_dir=str(data_dir)))
    assert Counter(left_out.values()) == {
        "fewer than 48 molecules": 2752, "more than 400 molecules": 119,
        "fewer than 20 active molecules": 53, "fewer than 20 inactive molecules": 1,
    }  # fmt: skip


def test_scenarios_that_are_made_up_leave_nobody_out() -> None:
    for name in ("sinusoid", "digits", "graph_nodes", "quadratic"):
        assert left_out_of(CATALOGUE[name]()) == {}
