"""The contract of every strategy of the catalogue, for those of this folder."""

import inspect

import pytest

from fedmaml.strategies import CATALOGUE
from tests.contracts.test_every_strategy import (  # noqa: F401 (pytest collects them)
    test_adaptation_batched_equals_one_by_one,
    test_batched_equals_one_by_one,
    test_documents_every_setting,
    test_draws_nothing_from_the_global_generator,
    test_equals_and_hashes_by_its_settings,
    test_inputs_are_not_changed,
    test_is_as_short_as_an_algorithm,
    test_is_frozen_and_made_without_arguments,
    test_loss_falls_over_rounds,
    test_no_adaptation_steps_give_the_unadapted_predictor,
    test_reads_like_its_paper,
    test_refuses_settings_it_does_not_have,
    test_says_all_four_verbs_itself_and_overrides_nothing,
    test_survives_the_wire,
    test_the_same_seed_gives_the_same_bits,
    test_the_sum_is_the_sum_of_single_updates,
    test_the_update_depends_on_the_clients_data,
    test_update_has_the_tree_shapes_and_dtype_of_meta,
)
from tests.outside.catalogue import OUTSIDE

pytestmark = pytest.mark.parametrize("name", OUTSIDE)


def test_is_a_file_outside_the_package(name: str) -> None:
    assert CATALOGUE[name].__module__ == f"tests.outside.{name}"
    imports = [
        line.split()[1]
        for line in inspect.getsource(inspect.getmodule(CATALOGUE[name])).splitlines()
        if line.startswith(("from fedmaml", "import fedmaml"))
    ]
    assert imports == ["fedmaml.strategies.prelude"]
