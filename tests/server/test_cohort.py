"""Who takes part does not depend on who hosts whom."""

import time
from pathlib import Path

import pytest

from fedmaml.client.app import app as client_app
from fedmaml.config import resolve, to_run_config
from fedmaml.core.errors import BackendError
from fedmaml.server.cohort import RollCall, choose, one_client_per_node
from fedmaml.server.roll import call_roll
from fedmaml.simulations.backends.in_process import InProcessGrid


def hosted_by(nodes: int, clients: int) -> RollCall:
    return RollCall({100 - n: {"train": range(n, clients, nodes)} for n in range(nodes)})


@pytest.mark.parametrize("nodes", [1, 2, 3, 7])
def test_population_is_the_same_however_it_is_hosted(nodes: int) -> None:
    assert list(hosted_by(nodes, 20).population("train")) == list(range(20))


def test_place_names_the_host_of_every_client() -> None:
    placed = hosted_by(3, 9).place("train", [8, 0, 4, 3])
    assert placed == {100: [0, 3], 99: [4], 98: [8]}


def test_client_claimed_twice_is_an_error_that_names_both_nodes() -> None:
    roll_call = RollCall({7: {"train": range(3)}, 9: {"train": range(2, 4)}})
    with pytest.raises(BackendError, match=r"client 2 is hosted by 2 nodes \(\[7, 9\]\)"):
        roll_call.population("train")


def test_cohort_is_seeded_without_repeats_and_ascending() -> None:
    cohort = choose(0, 1, range(1000), 50)
    assert cohort == choose(0, 1, list(range(1000)), 50) == sorted(set(cohort))
    assert len(cohort) == 50
    assert cohort != choose(0, 2, range(1000), 50)
    assert cohort != choose(1, 1, range(1000), 50)
    assert choose(0, 1, range(5), 0) == [0, 1, 2, 3, 4]


def test_every_client_is_chosen_about_equally_often() -> None:
    counts = [0] * 20
    for number in range(2000):
        for client in choose(3, number, range(20), 5):
            counts[client] += 1
    # 500 expected each, standard deviation sqrt(2000 * 1/4 * 3/4) = 19.4; five of them
    assert all(abs(count - 500) < 97 for count in counts)


def test_a_million_clients_cost_nothing_to_hold() -> None:
    roll_call = hosted_by(4, 1_000_000)
    assert roll_call.population("train") == range(1_000_000)
    assert (
        sum(map(len, roll_call.place("train", choose(0, 1, range(1_000_000), 25)).values())) == 25
    )


def test_nodes_without_a_roll_call_are_one_client_each_by_their_number() -> None:
    roll_call = one_client_per_node({10: 0, 20: 1, 30: 2})
    assert roll_call.place("train", [0, 1, 2]) == {10: [0], 20: [1], 30: [2]}
    assert list(roll_call.population("test")) == [0, 1, 2]


def test_roll_call_waits_for_nodes_that_the_others_know_of() -> None:
    class LateGrid(InProcessGrid):
        asked = 0

        def get_node_ids(self) -> list[int]:
            LateGrid.asked += 1
            nodes = list(super().get_node_ids())
            return nodes if LateGrid.asked > 1 else nodes[:1]

    config = resolve({"scenario": "digits", "strategy": "maml"})
    grid = LateGrid(client_app, 3, to_run_config(config, Path("unused")))
    assert call_roll(grid, 1, 5.0).population("train") == range(60)


@pytest.mark.parametrize("by_remainder", [False, True])
def test_placing_many_clients_on_many_nodes_takes_time_in_proportion(by_remainder: bool) -> None:
    def seconds(nodes: int) -> float:
        least = float("inf")
        for _ in range(3):
            roll_call = one_client_per_node({10 + number: number for number in range(nodes)})
            if by_remainder:
                hosts = {10 + part: {"train": range(part, nodes, nodes)} for part in range(nodes)}
                roll_call = RollCall(hosts)
            started = time.process_time()
            placed = roll_call.place("train", range(nodes))
            least = min(least, time.process_time() - started)
            assert placed == {10 + number: [number] for number in range(nodes)}
        return least

    assert seconds(20_000) < 50 * seconds(1_000)  # in proportion: 20; each by a search: 400
