"""Scenarios whose examples are episodes: many at once equal one by one, steps are counted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmaml.computing.chunks import task_groups
from fedmaml.computing.engines import Job
from fedmaml.computing.evaluation import evaluate
from fedmaml.config import resolve
from fedmaml.core import seeding
from fedmaml.core.counters import Units, count_units
from fedmaml.core.requests import EvaluateRequest, TrainRequest
from fedmaml.core.tasks import task_at
from fedmaml.running import execute
from fedmaml.simulations.environments import bandit_rules
from fedmaml.simulations.environments.acting import GaussianPolicy
from fedmaml.simulations.environments.bandits import bayes_value, sampled_action
from fedmaml.simulations.environments.navigation import goals_on_half_circle
from fedmaml.simulations.environments.pulling import EquivariantPulls
from fedmaml.simulations.reference import TrainingClients
from fedmaml.simulations.scenarios import Arm, Bandits, HalfCircle, Navigation
from tests.catalogue import ACTING, slow_unless
from tests.engines import computed

CASES = [
    slow_unless(strategy in ("maml", "rl2"), name, strategy)
    for name in ACTING
    for strategy in ("maml", "rl2", "fomaml", "reptile", "meta_sgd", "fedavg")
]


def results_of(engine: str, name: str, strategy: str) -> dict[int, list[Tensor]]:
    run = resolve(
        {"scenario": name, "strategy": strategy, "task": ACTING[name], "dtype": "float64"}
    )
    algorithm, scenario = run.make_strategy(), run.make_scenario()
    start = algorithm.build(run.make_problem(), seeding.generator(0, "init"))
    job = Job(algorithm, start.learner, start.state.meta, "stack")
    clients = tuple(range(4))
    request = TrainRequest(3, clients, job.meta, "stack", seed=5)
    (groups,) = task_groups(request, lambda some: scenario.tasks("train", some, 3, {}), job, [])
    return computed(engine, job, groups, dict.fromkeys(clients, start.memory))


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_many_clients_at_once_equal_one_by_one(name: str, strategy: str) -> None:
    one_by_one, together = (results_of(engine, name, strategy) for engine in ("loop", "vmap"))
    assert set(together) == set(one_by_one) == set(range(4))
    for client, values in one_by_one.items():
        for single, batched in zip(values, together[client], strict=True):
            torch.testing.assert_close(batched, single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["navigation", "trading"])
def test_the_engine_loop_evaluates_clients_one_by_one(name: str) -> None:
    """Of five clients computed together, float32, most had other last bits."""
    run = resolve({"scenario": name, "strategy": "fomaml", "task": ACTING[name]})
    algorithm, scenario = run.make_strategy(), run.make_scenario()
    start = algorithm.build(run.make_problem(), seeding.generator(0, "init"))

    def values(*clients: int) -> dict[str, np.ndarray]:
        request = EvaluateRequest(1, "validation", clients, start.state.meta)
        return evaluate(
            algorithm, start.learner, request,
            lambda some: scenario.tasks("validation", some, 1, {}),
            dict.fromkeys(clients, start.memory), engine="loop",
        ).values  # fmt: skip

    clients = scenario.clients()["validation"][:5]
    together = values(*clients)
    for position, client in enumerate(clients):
        for column, (alone,) in values(client).items():
            assert together[column][position] == alone


@pytest.mark.parametrize(
    "name", [slow_unless(name == "navigation", name) for name in ("navigation", "bandits", "arm")]
)
def test_nodes_change_no_bit(name: str, tmp_path: Path) -> None:
    hashes = set()
    for nodes in (1, 3):
        more = {"validation_clients": 0, "test_clients": 3}
        run = resolve(
            {"scenario": name, "strategy": "maml", "nodes": nodes, "rounds": 2, "clients": 4,
             "engine": "loop", "task": ACTING[name] | more}
        )  # fmt: skip
        summary = execute(run, tmp_path / str(nodes))
        assert summary["rejected_replies"] == 0
        hashes.add((summary["theta_sha256"], summary["metric"]["after"]))
        spent = summary["cost"]["totals"]["counters"]["environment_steps"]
        assert spent["support"] > 0
        assert spent["query"] > 0
    assert len(hashes) == 1


def test_steps_of_the_environment_are_counted_apart() -> None:
    scenario = Navigation(episodes=5, horizon=7)
    for split, support in (("train", 35), ("test", 105)):
        task = task_at(scenario.tasks(split, [1], 1, {})[0].tasks, 0)
        counted = count_units(scenario.problem().counters, task)
        assert counted == {"environment_steps": Units(support, 35)}


def test_a_short_trial_of_early_training_costs_less() -> None:
    scenario = Bandits(pulls=20, first=5, grown=11, trials=2)
    for round, pulls in ((1, 6), (6, 13), (11, 20), (50, 20)):
        task = task_at(scenario.tasks("train", [0], round, {})[0].tasks, 0)
        counted = count_units(scenario.problem().counters, task)["environment_steps"]
        assert counted == Units(2 * pulls, 2 * pulls)
    task = task_at(scenario.tasks("test", [0], 1, {})[0].tasks, 0)
    assert task.query.x["noise"].shape == (2, 20)


def test_the_order_of_the_arms_changes_the_order_of_the_logits_alone() -> None:
    with seeding.isolated(seeding.generator(0)):
        network = EquivariantPulls(4).double()
    torch.nn.init.normal_(network.choice.weight, generator=seeding.generator(1))
    seen = torch.tensor([[0.0, 1, 0, 0, 1, 0.5]], dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    turned = torch.cat([seen[:, :4][:, order], seen[:, 4:]], 1)
    logits, value = network.heads(network.states(seen[:, None]))
    other, same = network.heads(network.states(turned[:, None]))
    torch.testing.assert_close(other, logits[..., order])
    torch.testing.assert_close(same, value)
    assert float((logits - logits.mean()).abs().max().detach()) > 1e-4


@pytest.mark.parametrize("network", ["equivariant", "plain"])
def test_actions_are_those_of_the_probabilities_that_are_returned(network: str) -> None:
    """A trial is played pull by pull, and then read as a sequence: both give the same logits."""
    scenario = Bandits(pulls=6, arms=3, trials=50, network=network, entropy=0.0)
    with seeding.isolated(seeding.generator(0)):
        played = scenario.problem().network().double()
    torch.nn.init.normal_(played.choice.weight, generator=seeding.generator(1))
    x = task_at(scenario.tasks("train", [0], 1, {})[0].tasks, 0).support.x
    found = played(x)
    pulled = torch.nn.functional.one_hot(found["actions"], 3).double()
    before = torch.cat([torch.zeros(50, 1, 3).double(), pulled[:, :-1]], 1)
    won = torch.cat([torch.zeros(50, 1).double(), found["rewards"][:, :-1]], 1)[..., None]
    left = (1 - torch.arange(6).double() / 6)[None, :, None].expand_as(won)
    state = None
    for pull, seen in enumerate(torch.cat([before, won, left], -1).unbind(1)):
        states = played.states(seen[:, None], state)
        logits, value = (each[:, 0] for each in played.heads(states))
        state = states[:, 0]
        action = sampled_action(logits, x["noise"][:, pull])
        assert torch.equal(action, found["actions"][:, pull])
        log_prob = logits.log_softmax(-1).gather(-1, action[:, None])[:, 0]
        torch.testing.assert_close(found["log_prob"][:, pull], log_prob)
        torch.testing.assert_close(found["value"][:, pull], value)


def test_rules_expect_what_dynamic_programming_says() -> None:
    """The index of two arms and five pulls is near the optimum 2.8889, and no rule is above."""
    trials, pulls = 20_000, 5
    pays = seeding.uniform(seeding.key(0), range(trials), 2)
    noise = seeding.uniform(seeding.key(1), range(trials), pulls)
    chance = seeding.uniform(seeding.key(2), range(trials), pulls, 1)
    earned = {}
    for name, rule in (
        ("index", bandit_rules.by_index(pulls)),
        ("mean", bandit_rules.by_mean),
        ("thompson", bandit_rules.by_sampling(0)),
        ("ucb1", bandit_rules.by_upper_bound),
    ):
        found = bandit_rules.pull(rule, {"pays": pays}, noise, chance).rewards.sum(1)
        error = float(found.std()) / trials**0.5
        earned[name] = float(found.mean())
        assert earned[name] <= bayes_value(2, pulls) + 4 * error
    assert earned["index"] == pytest.approx(bayes_value(2, pulls), abs=0.05)
    assert max(earned["ucb1"], earned["thompson"]) < earned["index"]


def test_a_policy_has_the_density_of_its_actions() -> None:
    with seeding.isolated(seeding.generator(0)):
        policy = GaussianPolicy((2, 4, 2)).double()
    torch.nn.init.constant_(policy.log_std, -0.3)
    seen = seeding.normal(seeding.key(0), [0], 5, 2)[0]
    noise = seeding.normal(seeding.key(1), [0], 5, 2)[0]
    action = policy.choose(seen, noise)
    mean, deviation = policy.mean(seen), policy.log_std.exp()
    exact = torch.distributions.Normal(mean, deviation).log_prob(action).sum(-1)
    torch.testing.assert_close(policy.log_prob(seen, action), exact)


def test_strangers_show_another_goal_in_the_support_alone() -> None:
    for make in (Navigation, HalfCircle):
        usual, null = (
            task_at(make(null=value).tasks("test", [7], 1, {})[0].tasks, 0)
            for value in (False, True)
        )
        assert torch.equal(usual.query.x["goal"], null.query.x["goal"])
        assert not torch.equal(usual.support.x["goal"][0], null.support.x["goal"][0])
        assert torch.equal(usual.support.x["goal"][0], usual.query.x["goal"][0])


def test_who_knows_the_goal_of_a_half_circle_earns_what_full_speed_along_both_axes_does() -> None:
    """What is left of either coordinate falls by .1 in a step; 14.056 of 20 over all angles."""
    scenario, step = HalfCircle(), torch.arange(1, 21)

    def expected(goals: Tensor) -> Tensor:
        left = (goals.abs()[:, None] - 0.1 * step[:, None]).clamp(min=0).norm(dim=-1)
        return torch.where(left < 0.3, 1 - left, 0.0).sum(1)

    angles = (torch.arange(20_000).double() + 0.5) / 20_000 * torch.pi
    assert float(expected(goals_on_half_circle(angles)).mean()) == pytest.approx(14.056, abs=1e-3)
    clients = scenario.clients()["test"]
    ((_, tasks),) = scenario.tasks("test", clients, 1, {})
    oracle = next(each for each in scenario.references() if each.oracle)
    adapt = oracle.fit(TrainingClients(oracle.name, True, {}, list))
    for row, wanted in enumerate(expected(scenario.goals(clients))):
        support, query = task_at(tasks, row)
        prediction = adapt(support)(query.x)
        found = {
            name: float(value)
            for metric in scenario.problem().metrics
            for name, value in metric.values(prediction, query.y, {}).items()
        }
        assert found["reached"] == 1
        assert found["return"] == pytest.approx(float(wanted), abs=1e-4)


def test_arms_lie_in_their_ranges() -> None:
    mass, friction = Arm().arms(range(2000))
    assert 0 < float(mass.min()) < 0.1
    assert 2.9 < float(mass.max()) < 3
    assert 0.2 < float(friction.min()) < 0.25
    assert 0.95 < float(friction.max()) < 1
