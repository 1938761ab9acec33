"""Every defect is found in a scenario, a strategy or a network that has it, and only there."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from fedmaml import auditing, config
from fedmaml.auditing import IN_A_RUN, Extent, Finding
from fedmaml.core import seeding
from fedmaml.core.errors import DataError
from fedmaml.core.learner import Learner, Predictor, Problem
from fedmaml.core.losses import cross_entropy
from fedmaml.core.metrics import ACCURACY
from fedmaml.core.networks import MLP, Conv4
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, Task, TaskGroup, group_by_shape
from fedmaml.simulations.scenario import Recipes, Scenario, Split
from fedmaml.simulations.scenarios import CATALOGUE
from fedmaml.strategies import CATALOGUE as STRATEGIES
from fedmaml.strategies import MAML
from fedmaml.strategies.base import ClientUpdate, Facts, Initialised, MetaStrategy, ServerState
from tests.catalogue import founding_first, reads_data
from tests.conftest import REGRESSORS

EXAMPLES, SUPPORT, FEATURES, CLASSES = 24, 10, 4, 3


@settings
class Leaky(Scenario):
    """Clients with 24 examples, split anew every round, and one defect of choice.

    Attributes:
        seed: Determines all data.
        defect: What is wrong.
        count: Training clients, and evaluated ones.
    """

    about: ClassVar[str] = "with a defect of choice"
    recipes: ClassVar[Recipes] = {"*": {"rounds": 2}}

    seed: int = 0
    defect: str = ""
    count: int = 12

    def problem(self) -> Problem:
        return Problem(
            lambda: MLP((FEATURES, 6, CLASSES)), cross_entropy, (ACCURACY,), classes=CLASSES
        )

    def clients(self) -> dict[Split, range]:
        first = {"known clients": 0, "one client twice": self.count - 1}.get(
            self.defect.partition(", ")[0], self.count
        )
        test = range(first, first + self.count)
        return {
            "train": range(self.count),
            "validation": test[-2:] if self.defect == "chosen on test" else range(0),
            "test": test,
        }

    def statistics(self, client: int) -> Params:
        return {}

    def tasks(
        self, split: Split, clients: Sequence[int], round: int, shared_statistics: Params
    ) -> list[TaskGroup]:
        return group_by_shape({client: self.task(split, client, round) for client in clients})

    def task(self, split: Split, client: int, round: int) -> Task:
        x, y = self.data(split, client)
        if self.defect == "raises at client 3" and client == 3:
            raise ValueError("a damaged file")
        draw = seeding.key(self.seed, "split", split, round if split == "train" else 0)
        order = seeding.permutation(draw, [client], len(y))[0]
        support, query = order[:SUPPORT], order[SUPPORT:]
        if self.defect == "off by one":
            query = order[SUPPORT - 1 :]
        elif self.defect == "query is support" or (
            self.defect == "query is support in evaluation" and split == "test"
        ):
            query = support
        if self.defect == "centred by its own query" and split == "test":
            x = (x - x.mean(0)) / x.std(0)
        return Task(Batch(x[support], y[support]), Batch(x[query], y[query]))

    def data(self, split: Split, client: int) -> tuple[Tensor, Tensor]:
        if self.defect.startswith("known clients") and not self.defect.endswith("same examples"):
            client = client + 1000 * (split == "test")  # new examples of a known client
        x, y = self.raw(client)
        if self.defect == "centred with everybody":
            everyone = torch.cat([self.raw(other)[0] for other in range(2 * self.count)])
            x = x - everyone.mean(0)
        elif self.defect == "centred with training clients":
            x = x - torch.cat([self.raw(other)[0] for other in range(self.count)]).mean(0)
        return x.float(), y

    def raw(self, client: int) -> tuple[Tensor, Tensor]:
        source = client % self.count if self.defect == "copied clients" else client
        draw = seeding.key(self.seed, "x")
        x = seeding.normal(draw, [source], EXAMPLES, FEATURES)[0] + 0.3
        y = torch.arange(EXAMPLES) % CLASSES
        if self.defect == "one pool":
            pool = seeding.normal(draw, [0], 60, FEATURES)[0]
            chosen = seeding.permutation(draw, [client], 60)[0][:EXAMPLES]
            return pool[chosen], chosen % CLASSES
        if self.defect == "one example everywhere":
            x[0] = 1.0
        if self.defect == "twins":  # two pairs of examples of one class are equal
            x[CLASSES], x[CLASSES + 1] = x[0], x[1]
        if self.defect == "coarse":
            x = (x > 0.3).double()
        return x, y


def found(scenario: Scenario, extent: Extent = IN_A_RUN) -> dict[str, Finding]:
    """Return the findings by kind."""
    audit = auditing.audit(scenario, MAML(), scenario.problem(), 0, extent)
    kinds = [finding.kind for finding in audit.findings]
    assert set(kinds) <= set(auditing.KINDS)
    return {finding.kind: finding for finding in audit.findings}


def test_a_sound_scenario_has_no_finding_and_everything_was_looked_at() -> None:
    scenario = Leaky()
    audit = auditing.audit(scenario, MAML(), scenario.problem(), 0)
    assert audit.findings == ()
    assert audit.not_checked == ()
    assert {check.kind for check in audit.checked} == set(auditing.KINDS)
    assert not audit.line()


# --- support and query ------------------------------------------------------------------------


@pytest.mark.parametrize("defect", ["off by one", "query is support"])
def test_examples_put_into_support_and_query_are_a_leak(defect: str) -> None:
    finding = found(Leaky(defect=defect))["support-query-overlap"]
    assert finding.severity == "leak"
    assert "the same examples are put on both" in finding.detail
    assert finding.clients == tuple(range(12, 24))


def test_one_example_of_fifteen_at_every_client_is_counted() -> None:
    # 15 query examples at each of 12 test clients, the first of them is the last of the support
    detail = found(Leaky(defect="off by one"))["support-query-overlap"].detail
    assert detail.startswith("12 of 180 query examples (6.67%) are in the support set")


def test_overlap_in_evaluation_alone_is_found() -> None:
    scenario = Leaky(defect="query is support in evaluation")
    audit = auditing.audit(scenario, MAML(), scenario.problem(), 0)
    (finding,) = audit.findings
    assert (finding.kind, finding.severity) == ("support-query-overlap", "leak")
    assert "split 'test'" in finding.detail


@pytest.mark.parametrize("seed", range(5))
def test_twins_in_the_data_are_distinguished_from_the_same_example_twice(seed: int) -> None:
    finding = found(Leaky(defect="twins", seed=seed))["support-query-overlap"]
    assert finding.severity == "warning"
    assert "lie on one side, as in a random split of data that hold equal examples" in (
        finding.detail
    )


def test_coarse_data_are_not_taken_for_a_leak() -> None:
    """16 x 3 possible examples: most are repeated, on both sides and at other clients."""
    findings = found(Leaky(defect="coarse", count=30))
    assert findings["support-query-overlap"].severity == "warning"
    assert findings["duplicates-across-clients"].severity == "warning"


def test_a_site_can_check_its_own_task() -> None:
    assert auditing.audit_task(Leaky().task("test", 3, 0)) is None
    finding = auditing.audit_task(Leaky(defect="query is support").task("test", 3, 0), client=3)
    assert finding is not None
    assert finding.severity == "leak"
    assert finding.clients == (3,)


# --- clients ----------------------------------------------------------------------------------


def test_the_same_data_under_another_client_number_are_a_leak() -> None:
    finding = found(Leaky(defect="copied clients"))["duplicates-across-clients"]
    assert finding.severity == "leak"
    assert finding.detail.startswith("168 of 168 query and 120 of 120 support examples of 12 of 12")
    assert finding.clients == tuple(range(12, 24))


def test_clients_that_draw_from_one_pool_are_a_leak() -> None:
    """Every client has 24 of 60 examples, so most of a test client's are at training clients."""
    findings = found(Leaky(defect="one pool"))
    assert findings.keys() == {"duplicates-across-clients"}
    assert findings["duplicates-across-clients"].severity == "leak"


def test_few_examples_that_clients_share_are_a_warning() -> None:
    finding = found(Leaky(defect="one example everywhere"))["duplicates-across-clients"]
    assert finding.severity == "warning"
    assert "12 other clients" in finding.detail


def test_one_test_client_that_trains_is_a_leak() -> None:
    finding = found(Leaky(defect="one client twice"))["test-clients-in-training"]
    assert finding.severity == "leak"
    assert finding.clients == (11,)
    assert finding.detail == "1 of 12 clients of split 'test' may train"


def test_clients_that_are_known_by_design_are_a_note() -> None:
    findings = found(Leaky(defect="known clients"))
    assert findings.keys() == {"test-clients-in-training"}
    assert findings["test-clients-in-training"].severity == "note"
    assert "say nothing of new ones" in findings["test-clients-in-training"].detail


def test_known_clients_that_are_evaluated_on_what_they_trained_on_are_a_leak() -> None:
    finding = found(Leaky(defect="known clients, same examples"))["test-examples-in-training"]
    assert finding.severity == "leak"
    assert finding.detail.startswith("168 of 168 query examples (100.00%, split 'test') of 12")
    assert "what a client remembers" in finding.detail


def test_choosing_on_test_clients_is_a_leak() -> None:
    finding = found(Leaky(defect="chosen on test"))["test-clients-in-training"]
    assert finding.severity == "leak"
    assert finding.detail == "2 clients are in both splits, 'validation' and 'test'"


def test_in_a_run_those_count_who_were_asked() -> None:
    populations = {"test": range(5, 10)}
    assert not auditing.clients_seen_in_training(populations, {1, 2, 4}, 3).findings
    (finding,) = auditing.clients_seen_in_training(populations, {1, 7, 9}, 3).findings
    assert finding.detail == ("2 of 5 clients of split 'test' were asked in training (of 3 rounds)")
    assert finding.clients == (7, 9)


def test_a_hundred_thousand_clients_are_audited_by_a_stated_sample() -> None:
    scenario = config.resolve({"scenario": "sinusoid", "task.train_clients": 100_000})
    audit = auditing.audit(scenario.make_scenario(), MAML(), scenario.make_problem(), 0, IN_A_RUN)
    assert audit.findings == ()
    (check,) = [
        check for check in audit.checked
        if check.kind == "support-query-overlap" and "train" in check.how
    ]  # fmt: skip
    assert (check.clients, check.of) == (64, 100_000)
    assert [missing.why for missing in audit.not_checked] == [
        "means over all clients need all clients; this is a sample"
    ]


def test_evaluated_clients_of_a_sample_are_looked_for_among_those_that_train() -> None:
    scenario = Leaky(defect="known clients, same examples", count=2000)
    findings = found(scenario, Extent(clients=8, rounds=1, megabytes=8))
    assert findings["test-examples-in-training"].severity == "leak"


# --- statistics -------------------------------------------------------------------------------


def test_inputs_centred_with_evaluated_clients_are_a_leak() -> None:
    finding = found(Leaky(defect="centred with everybody"))["statistics-from-test-data"]
    assert finding.severity == "leak"
    assert "4 of 4 inputs have the mean 0 over the examples of all training and evaluated" in (
        finding.detail
    )


def test_inputs_centred_by_their_own_query_are_a_leak() -> None:
    finding = found(Leaky(defect="centred by its own query"))["statistics-from-test-data"]
    assert finding.severity == "leak"
    assert "over support and query together, and not over the support" in finding.detail


def test_inputs_centred_with_training_clients_are_sound() -> None:
    assert found(Leaky(defect="centred with training clients")) == {}


# --- predictions ------------------------------------------------------------------------------


class BatchNormalised(nn.Module):
    """A network that normalises by the statistics of the batch at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, 6)
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)
        self.head = nn.Linear(6, CLASSES)
        nn.init.zeros_(self.head.weight)  # must not hide it

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)).relu())


class Counting(nn.Module):
    """A network that changes with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(x) * self.calls


@settings
class TrainsOnQueries(MetaStrategy):
    """Predicts relative to all queries: what a strategy may not do."""

    facts = Facts("TrainsOnQueries", adapts_by="")

    def build(self, problem: Problem, rng: torch.Generator) -> Initialised:
        return MAML().build(problem, rng)

    def adapt(
        self, learner: Learner, meta: MetaParams, memory: Params, support: Batch
    ) -> Predictor:
        apply = partial(learner.apply, meta["theta"])
        return lambda x: apply(x) - apply(x).mean(0)

    def client_update(
        self, learner: Learner, meta: MetaParams, memory: Params, task: Task
    ) -> ClientUpdate:
        return MAML().client_update(learner, meta, memory, task)

    def server_update(self, state: ServerState, update: MetaParams) -> ServerState:
        return state


def predictions(problem: Problem, strategy: MetaStrategy) -> tuple[Finding, ...]:
    return auditing.audit(Leaky(), strategy, problem, 0).findings


TAKE_CLASSES = [name for name in STRATEGIES if name not in REGRESSORS]


@pytest.mark.parametrize("strategy", founding_first(TAKE_CLASSES))
def test_batch_statistics_are_found_with_every_strategy(strategy: str) -> None:
    problem = replace(Leaky().problem(), network=BatchNormalised)
    (finding,) = predictions(problem, STRATEGIES[strategy]())
    assert (finding.kind, finding.severity) == ("transductive-prediction", "warning")
    assert "GroupNorm" in finding.cure


@pytest.mark.parametrize("strategy", TAKE_CLASSES)
def test_no_strategy_depends_on_the_other_queries(strategy: str) -> None:
    assert predictions(Leaky().problem(), STRATEGIES[strategy]()) == ()


@pytest.mark.parametrize(("norm", "kinds"), [("batch", ["transductive-prediction"]), ("group", [])])
def test_conv4_is_transductive_with_batch_statistics_only(norm: str, kinds: list[str]) -> None:
    problem = replace(Leaky().problem(), network=lambda: Conv4(1, 16, CLASSES, 4, norm))
    draw = seeding.normal(seeding.key(0, "images"), [0], EXAMPLES, 1, 16, 16)[0].float()
    y = torch.arange(EXAMPLES) % CLASSES
    task = Task(Batch(draw[:SUPPORT], y[:SUPPORT]), Batch(draw[SUPPORT:], y[SUPPORT:]))
    audit = auditing.dependent_predictions(MAML(), problem, 0, {0: task}, of=1)
    assert [finding.kind for finding in audit.findings] == kinds


def test_a_strategy_that_looks_at_all_queries_is_found() -> None:
    (finding,) = predictions(Leaky().problem(), TrainsOnQueries())
    assert finding.kind == "transductive-prediction"


def test_a_network_that_keeps_something_between_calls_is_found() -> None:
    findings = predictions(replace(Leaky().problem(), network=Counting), MAML())
    assert ("state-between-calls", "leak") in {(f.kind, f.severity) for f in findings}


# --- what cannot be checked -------------------------------------------------------------------


def test_a_client_that_cannot_be_read_is_named_and_the_others_are_audited() -> None:
    scenario = Leaky(defect="raises at client 3")
    audit = auditing.audit(scenario, MAML(), scenario.problem(), 0)
    assert audit.findings == ()
    assert "the data of clients 3 cannot be read" in [entry.why for entry in audit.not_checked]


def test_missing_data_are_an_error(tmp_path) -> None:
    scenario = CATALOGUE["hospitals"](data_dir=str(tmp_path))
    with pytest.raises(DataError, match="heart_disease"):
        auditing.audit(scenario, MAML(), scenario.problem(), 0)


def test_one_query_example_cannot_be_tried_in_other_company() -> None:
    batch = Batch(torch.ones(1, FEATURES), torch.zeros(1, dtype=torch.int64))
    audit = auditing.dependent_predictions(
        MAML(), Leaky().problem(), 0, {0: Task(batch, batch)}, of=1
    )
    assert audit.checked == ()
    assert {entry.kind for entry in audit.not_checked} == {
        "transductive-prediction", "state-between-calls",
    }  # fmt: skip


def test_an_audit_survives_json() -> None:
    scenario = Leaky(defect="off by one")
    audit = auditing.audit(scenario, MAML(), scenario.problem(), 0)
    assert audit.findings
    assert auditing.audit_from_json(audit.to_json()) == audit


# --- what is shipped --------------------------------------------------------------------------

KNOWN = {
    # Quadratic tasks are functions, not samples: support and query are the same by definition.
    "quadratic": {("support-query-overlap", "leak")},
    "tabular": {("support-query-overlap", "leak")},
    "omniglot": {("transductive-prediction", "warning")},
    # Few numbers, or coarse ones, describe an example: different ones are equal.
    "fairness": {("support-query-overlap", "warning"), ("duplicates-across-clients", "warning")},
    "movies": {("duplicates-across-clients", "leak")},
    "glucose": {("support-query-overlap", "note"), ("duplicates-across-clients", "warning")},
    "molecules": {("duplicates-across-clients", "leak"), ("duplicates-across-clients", "warning")},
    "sky_anomaly": {("duplicates-across-clients", "warning")},
    "morphology": {("support-query-overlap", "warning"), ("duplicates-across-clients", "warning")},
    # Hungary and Long Beach hold one pair of equal patients each.
    "hospitals": {("test-clients-in-training", "note"), ("support-query-overlap", "note")},
}


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "csv"])  # the user's data
def test_shipped_scenarios_have_no_finding_but_the_known_ones(name: str, request) -> None:
    layer = {"scenario": name}
    if reads_data(name):
        layer["data_dir"] = str(request.getfixturevalue("data_dir"))
    run = config.resolve(layer)
    audit = auditing.audit(
        run.make_scenario(), run.make_strategy(), run.make_problem(), 0, IN_A_RUN
    )
    assert {(f.kind, f.severity) for f in audit.findings} == KNOWN.get(name, set())
    assert not audit.alarming  # what is more than a note is expected, and says why
    assert set(CATALOGUE[name].expected) <= {finding.kind for finding in audit.findings}
