"""Every strategy on graphs, sequences and episodes: examples that are trees of unequal number.

Integer entries, mini-batches, declared noise: on `loop` and `vmap` to 1e-12 in float64, and to the
same bits however clients are spread over nodes and workers.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedmaml import auditing
from fedmaml.computing.chunks import task_groups
from fedmaml.computing.engines import ENGINES, Job
from fedmaml.computing.engines.padding import merge_groups
from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.requests import TrainRequest
from fedmaml.core.tasks import rows_of
from fedmaml.running import execute
from fedmaml.simulations.scenarios import CATALOGUE
from fedmaml.strategies import CATALOGUE as STRATEGIES
from fedmaml.strategies.base import steps_of
from tests.catalogue import FOUNDING, slow_unless
from tests.conftest import NEED_CLASSES, READ_TARGETS, REGRESSORS
from tests.engines import computed
from tests.trees import SCENARIOS

CANNOT = [("nodes", name) for name in (*NEED_CLASSES, *READ_TARGETS)]  # one for each example
CASES = [
    (scenario, strategy)
    for scenario in SCENARIOS
    for strategy in STRATEGIES
    if strategy not in REGRESSORS and (scenario, strategy) not in CANNOT
]
BY_DEFAULT = [slow_unless(case[1] in FOUNDING or case[0] == "graphs", *case) for case in CASES]


FEW_NODES = [("sequences", strategy) for strategy in ("maml", "fomaml", "fedrep")]
"""Cases that are tested on several nodes by default."""


@pytest.fixture(autouse=True)
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, scenario in SCENARIOS.items():
        monkeypatch.setitem(CATALOGUE, name, scenario)


def job_of(scenario: str, strategy: str, **settings: Any) -> tuple[Job, dict[int, Any], Any]:
    config = resolve({"scenario": scenario, "strategy": strategy, **settings})
    made, problem = config.make_strategy(), config.make_problem()
    start = made.build(problem, seeding.generator(0, "init"))
    job = Job(made, start.learner, start.state.meta, "stack")
    clients = tuple(config.make_scenario().clients()["train"])
    request = TrainRequest(3, clients, job.meta, "stack", seed=5)
    tasks = config.make_scenario()

    def of(some: Any) -> Any:
        return tasks.tasks("train", some, request.round, {})

    (groups,) = task_groups(request, of, job, [])
    return job, dict.fromkeys(clients, start.memory), groups


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize(("scenario", "strategy"), BY_DEFAULT)
def test_many_clients_at_once_equal_one_by_one(scenario: str, strategy: str, batch: int) -> None:
    settings = {}
    if batch:
        names = vars(STRATEGIES[strategy]()).keys() & {"inner", "local", "head", "adaptation"}
        settings = {f"{name}.batch": batch for name in sorted(names)}
        if not settings:
            pytest.skip("this strategy takes no gradient steps")
    job, memories, groups = job_of(scenario, strategy, **settings)
    assert all(steps.batch == batch for steps in steps_of(job.strategy))
    merged = list(merge_groups(job, groups, memories))
    assert len(groups) == 9
    assert len(merged) == 9 if batch else len(merged) <= 9
    one_by_one = computed("loop", job, groups, memories)
    together = computed("vmap", job, groups, memories)
    assert set(together) == set(one_by_one) == set(range(9))
    for client, values in one_by_one.items():
        # Local training sends nothing.
        moved = any(bool(value.abs().max() > 0) for value in values if value.ndim)
        assert moved is STRATEGIES[strategy].facts.has_rounds
        for single, batched in zip(values, together[client], strict=True):
            torch.testing.assert_close(batched, single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("scenario", "strategy"), BY_DEFAULT)
def test_hand_written_engines_refuse_trees(scenario: str, strategy: str) -> None:
    job, _, _ = job_of(scenario, strategy)
    for engine in ("fused", "factored"):
        assert ENGINES[engine].why_unsupported(job)


@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [pytest.param(*case, marks=[] if case in FEW_NODES else [pytest.mark.slow]) for case in CASES],
)
def test_nodes_change_no_bit(scenario: str, strategy: str, tmp_path: Path) -> None:
    if not STRATEGIES[strategy].facts.has_rounds:
        pytest.skip("nothing is trained together")
    hashes = set()
    for nodes in (1, 4):
        config = resolve(
            {"scenario": scenario, "strategy": strategy, "nodes": nodes, "engine": "loop"}
        )
        summary = execute(config, tmp_path / str(nodes))
        assert summary["rejected_replies"] == 0
        assert summary["clients_evaluated"] == 4
        assert summary["metric"]["after"] is not None
        hashes.add(summary["theta_sha256"])
    assert len(hashes) == 1


def test_examples_keep_the_type_of_their_entries() -> None:
    _, _, groups = job_of("graphs", "maml", dtype="float32")
    for group in groups:
        for batch in group.tasks:
            assert batch.x["edges"].dtype == torch.int64
            assert batch.x["nodes"].dtype == batch.x["mask"].dtype == torch.float32
            assert rows_of(batch, 1) == batch.x["edges"].shape[1]


def test_declared_noise_is_a_function_of_seed_round_and_client() -> None:
    def masks(clients: tuple[int, ...], **changes: int) -> dict[int, Tensor]:
        config = resolve({"scenario": "sequences", "strategy": "maml"})
        scenario, strategy = config.make_scenario(), config.make_strategy()
        start = strategy.build(config.make_problem(), seeding.generator(0))
        request = TrainRequest(3, clients, start.state.meta, seed=5)
        request = replace(request, **changes)
        job = Job(strategy, start.learner, start.state.meta)
        (groups,) = task_groups(request, lambda c: scenario.tasks("train", c, 3, {}), job, [])
        return {
            client: group.tasks.support.x["mask"][row]
            for group in groups
            for row, client in enumerate(group.clients)
        }

    everyone = masks(tuple(range(9)))
    alone = masks((4,))
    assert torch.equal(alone[4], everyone[4])
    assert not torch.equal(everyone[4], everyone[7])  # of the same shape
    assert not torch.equal(everyone[4], masks((4,), round=4)[4])
    assert not torch.equal(everyone[4], masks((4,), seed=6)[4])
    assert bool(((everyone[4] > 0) & (everyone[4] < 1)).all())


def test_noise_must_not_take_the_name_of_an_input(tmp_path: Path) -> None:
    class Clash(SCENARIOS["graphs"]):
        def problem(self) -> Any:
            return replace(super().problem(), draws={"mask": next(iter(noise.values()))})

    noise = SCENARIOS["sequences"]().problem().draws
    CATALOGUE["graphs"] = Clash
    with pytest.raises(UnsupportedProblemError, match=r"declares draws \['mask'\].*other names"):
        execute(resolve({"scenario": "graphs", "strategy": "maml"}), tmp_path / "run")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_audit_tries_predictions_with_declared_noise(scenario: str) -> None:
    config = resolve({"scenario": scenario, "strategy": "maml"})
    parts = config.make_scenario(), config.make_strategy(), config.make_problem()
    found = auditing.audit_data(*parts, config.seed, auditing.IN_A_RUN)
    assert "transductive-prediction" in {check.kind for check in found.checked}
    assert "state-between-calls" not in {finding.kind for finding in found.findings}
