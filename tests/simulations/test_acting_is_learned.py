"""Acceptance of the scenarios with episodes: what their recipes reach on held-out clients."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from fedmaml.config import RunConfig, resolve
from fedmaml.core import seeding
from fedmaml.core.learner import make_learner, prepared_tasks
from fedmaml.core.tasks import Batch, Task
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.strategies.base import MetaStrategy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


def summary_of(out: Path, **layer: Any) -> dict[str, Any]:
    return execute(resolve(layer), out)


@SEEDS
def test_ten_pulls_of_five_arms_end_near_the_optimum(tmp_path: Path, seed: int) -> None:
    """6.660 is the most that can be expected; the sampling error of 1000 bandits is .05."""
    found = summary_of(tmp_path / "run", scenario="bandits", strategy="rl2", seed=seed)["metric"]
    assert found["after"] >= 6.60


@SEEDS
def test_learned_rates_find_the_payload_in_one_step_and_ten(tmp_path: Path, seed: int) -> None:
    """One step on the support comes near the gains that are best for the query itself."""
    summary = summary_of(tmp_path / "run", scenario="arm", strategy="meta_sgd", seed=seed)
    found = summary["metric"]
    assert found["after"] <= 0.030
    assert found["at_steps"]["10"]["mean"] <= 0.013
    (cost,) = summary["metrics"]
    assert 0 < cost["after"] - best_cost_of_arms(seed) <= 0.025


def best_cost_of_arms(seed: int) -> float:
    """Return the mean cost of the queries with the gains that 300 steps of Adam find for each."""
    run = resolve({"scenario": "arm", "strategy": "meta_sgd", "seed": seed})
    scenario, problem = run.make_scenario(), run.make_problem()
    learner, theta = make_learner(problem, seeding.generator(0))
    (group,) = scenario.tasks("test", scenario.clients()["test"], 0, {})
    query = prepared_tasks(group, problem, {}, seed=seed, split="test", round=0).tasks.query
    own = {
        name: value.expand(len(query.y), *value.shape).clone().requires_grad_()
        for name, value in theta.items()
    }
    adam = torch.optim.Adam(own.values(), lr=0.03)
    for _ in range(300):
        adam.zero_grad()
        losses = vmap(learner.loss)(own, query)
        losses.sum().backward()
        adam.step()
    return float(losses.detach().mean())


@SEEDS
def test_one_step_leads_most_of_the_way_to_the_goal(tmp_path: Path, seed: int) -> None:
    """Before it, the policy stays where it is, and its noise costs a little."""
    summary = summary_of(
        tmp_path / "run", scenario="navigation", strategy="maml", rounds=100, seed=seed
    )
    found, references = summary["metric"], {each["name"]: each for each in summary["references"]}
    still = references["standing still"]["metrics"][0]["mean"]
    assert still - 10 <= found["before"] <= still + 1
    assert found["after"] >= -16
    assert found["at_steps"]["3"]["mean"] >= -7.5


@SEEDS
def test_one_step_finds_most_goals_of_the_arc(tmp_path: Path, seed: int) -> None:
    found = summary_of(tmp_path / "run", scenario="half_circle", strategy="maml", seed=seed)[
        "metric"
    ]
    assert found["before"] < 0.2
    assert found["after"] > 0.6


def test_actor_and_critics_that_see_the_goal_reach_it(tmp_path: Path) -> None:
    found = summary_of(
        tmp_path / "run", scenario="half_circle", strategy="pearl", rounds=800, context=0,
        latent=1, task={"condition": "goal"},
    )  # fmt: skip
    assert found["metric"]["after"] >= 0.95


@SEEDS
def test_a_latent_finds_goals_that_are_seen_from_near_only(tmp_path: Path, seed: int) -> None:
    """On 200 new goals; checkpoints are evaluated after six episodes, on other clients."""
    run = resolve({
        "scenario": "half_circle", "strategy": "pearl", "seed": seed,
        "task": {"test_clients": 200, "validation_clients": 100}, "evaluation": {"every": 160},
    })  # fmt: skip
    found = execute(run, tmp_path / "run")["metric"]
    shots = {int(count): each["mean"] for count, each in found["at_shots"].items()}
    assert shots[1] < shots[3] < shots[5]
    assert shots[5] >= 0.45  # .59, .56 and .51; .55 is not reached by all seeds
    rounds = RunDirectory(tmp_path / "run").rounds()
    checkpoints = [r["evaluation"]["reached:after"] for r in rounds if r.get("evaluation")]
    assert sum(checkpoints[-3:]) / 3 >= 0.5  # .57, .62 and .59
    assert sum(r["metrics"]["kl"] for r in rounds[-100:]) / 100 > 2
    blind = replace(run.make_strategy(), context=0)
    assert shots[5] >= reached_by(blind, run, tmp_path / "run") + 0.25


def reached_by(strategy: MetaStrategy, run: RunConfig, out: Path) -> float:
    """Return the headline metric of test clients by what a run learned."""
    scenario, problem = run.make_scenario(), run.make_problem()
    learner = strategy.build(problem, seeding.generator(0)).learner
    meta = RunDirectory(out).load_meta()
    (group,) = scenario.tasks("test", scenario.clients()["test"], 0, {})
    draws = strategy.facts.draws
    tasks = prepared_tasks(group, problem, draws, seed=run.seed, split="test", round=0).tasks

    def of_one(task: Task) -> Tensor:
        prediction = strategy.adapt(learner, meta, {}, task.support)(task.query.x)
        return problem.metrics[0].function(prediction, task.query.y)

    return float(vmap(of_one)(tasks).mean())


def test_strings_are_better_for_what_was_bought_and_not_for_what_another_client_bought(
    tmp_path: Path,
) -> None:
    """Rewards of the sixth batch; the mean of random strings is .33, their best .56."""
    run = resolve({"scenario": "molecule_design", "strategy": "pearl"})
    execute(run, tmp_path / "run")
    strategy, scenario, problem = run.make_strategy(), run.make_scenario(), run.make_problem()
    learner = strategy.build(problem, seeding.generator(0)).learner
    meta = RunDirectory(tmp_path / "run").load_meta()
    (group,) = scenario.tasks("test", scenario.clients()["test"], 0, {})
    draws = strategy.facts.draws
    tasks = prepared_tasks(group, problem, draws, seed=0, split="test", round=0).tasks

    def rewards(support: Batch) -> Tensor:
        def of_one(task: Task) -> Tensor:
            return strategy.adapt(learner, meta, {}, task.support)(task.query.x)["rewards"]

        return vmap(of_one)(Task(support, tasks.query))

    x = tasks.support.x
    others = tasks.support._replace(x=x | {"target": x["target"].roll(1, 0)})
    own, of_others = rewards(tasks.support), rewards(others)
    assert float(own.mean()) >= 0.52
    assert float(own.max(1).values.mean()) >= 0.7
    assert float(own.mean() - of_others.mean()) >= 0.15
