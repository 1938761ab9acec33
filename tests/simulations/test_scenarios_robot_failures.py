"""Robot failures: the published problems share recordings, and honest folds do not."""

import pytest

from fedmaml import auditing, config
from fedmaml.auditing import IN_A_RUN
from fedmaml.core.tasks import unstack
from fedmaml.simulations.datasets import robot_failures
from fedmaml.simulations.scenarios import RobotFailures
from fedmaml.simulations.scenarios.robot_failures import INPUTS


@pytest.fixture(scope="module")
def data(data_dir) -> str:
    return str(data_dir)


def test_problems_have_the_published_kinds_and_four_recordings_twice(data: str) -> None:
    everything = robot_failures.load(data)
    assert {number: len(each.y) for number, each in everything.items()} == {
        1: 88, 2: 46, 3: 46, 4: 116, 5: 162
    }  # fmt: skip
    assert everything[1].kinds == ("collision", "fr_collision", "normal", "obstruction")
    assert everything[1].y.bincount().tolist() == [17, 16, 21, 34]


def test_problem_3_has_the_recordings_of_2_and_5_those_of_2_and_4(data: str) -> None:
    known = {n: set(each.checksums()) for n, each in robot_failures.load(data).items()}
    shared = {
        (one, other): len(known[one] & known[other]) for one in known for other in range(1, one)
    }
    assert {pair: count for pair, count in shared.items() if count} == {
        (3, 2): 46, (5, 2): 45, (5, 3): 45, (5, 4): 116
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seed", "tested", "training"),
    [(0, 1, (2, 3, 4)), (1, 2, (1, 4)), (6, 3, (1, 4)), (3, 4, (1, 2, 3))],
)
def test_honest_folds(data: str, seed: int, tested: int, training: tuple[int, ...]) -> None:
    scenario = RobotFailures(seed=seed, data_dir=data)
    assert scenario.tested_problem() == tested
    assert scenario.training_problems() == training
    known = robot_failures.load(data)
    for problem in training:
        assert set(known[problem].checksums()).isdisjoint(known[tested].checksums())


def recordings(scenario: RobotFailures, split: str) -> set[bytes]:
    """Return the inputs of all clients of a split, in three rounds."""
    found = set()
    for round in (1, 2, 3):
        for group in scenario.tasks(split, list(scenario.clients()[split]), round, {}):
            for task in unstack(group).values():
                found |= {row.numpy().tobytes() for batch in task for row in batch.x}
    return found


@pytest.mark.parametrize("seed", range(4))
def test_splits_share_no_recording(data: str, seed: int) -> None:
    scenario = RobotFailures(seed=seed, data_dir=data)
    train, validation, test = (
        recordings(scenario, split) for split in ("train", "validation", "test")
    )
    assert not train & validation
    assert not (train | validation) & test
    assert len(next(iter(test))) == 4 * INPUTS


def findings(data: str, folds: str) -> set[tuple[str, str]]:
    task = {"tested": 4, "folds": folds}
    run = config.resolve({"scenario": "robot_failures", "data_dir": data, "task": task})
    audit = auditing.audit(
        run.make_scenario(), run.make_strategy(), run.make_problem(), 0, IN_A_RUN
    )
    return {(finding.kind, finding.severity) for finding in audit.findings}


def test_the_audit_finds_the_copies_of_naive_folds_and_none_in_honest_ones(data: str) -> None:
    assert findings(data, "honest") == set()
    assert ("duplicates-across-clients", "leak") in findings(data, "naive")


def test_every_task_has_three_kinds_in_an_order_of_its_own(data: str) -> None:
    scenario = RobotFailures(data_dir=data)
    clients = list(scenario.clients()["test"])
    for group in scenario.tasks("test", clients, 0, {}):
        assert group.tasks.support.y.tolist() == [[0] * 3 + [1] * 3 + [2] * 3] * len(group.clients)
    orders = {tuple(map(len, scenario._kinds("test", client))) for client in clients}
    assert len(orders) > 6
