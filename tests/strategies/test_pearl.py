"""PEARL: its posterior by formula, its replay, and what it does where the network acts."""

from dataclasses import replace

import pytest
import torch
from torch.func import vmap
from torch.utils._pytree import tree_leaves

from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.gaussians import Gaussian, product_with_prior
from fedmaml.core.learner import Problem, prepared_tasks
from fedmaml.core.params import map_params
from fedmaml.core.replay import SLOW, empty_replay, recalled, remembered
from fedmaml.core.tasks import Batch, Task, draws_of, map_batch, task_at
from fedmaml.simulations.scenario import Scenario
from fedmaml.simulations.scenarios import HalfCircle, MoleculeDesign, Navigation
from fedmaml.strategies import PEARL
from fedmaml.strategies.latents import Context, at_latent, inferred, seen_by
from fedmaml.strategies.parts import conditioned

SMALL = PEARL(latent=3, hidden=5, kl=0.1, context=6, replay=20, batch=7, every=8)


CRITICS = replace(SMALL, every=1, explored=True, batch=3)


def acting(strategy: PEARL = SMALL):
    """Return what it builds on strings, moved away from the first point, and two clients' tasks."""
    problem = MoleculeDesign(hidden=6, temperature=0.3).problem().in_dtype("float64")
    return moved(strategy, problem, MoleculeDesign())


def with_critics(strategy: PEARL = CRITICS):
    """Return the same on the half circle, where the network has slow copies."""
    scenario = HalfCircle(hidden=6, episodes=2, radius=0.9)
    return moved(strategy, scenario.problem().in_dtype("float64"), scenario)


def moved(strategy: PEARL, problem: Problem, scenario: Scenario):
    start = strategy.build(problem, seeding.generator(0))
    meta = {
        group: map_params(lambda v: v + 0.03 * torch.ones_like(v).cumsum(-1), params)
        for group, params in start.state.meta.items()
    }
    (group,) = scenario.tasks("train", [0, 1], 1, {})
    group = prepared_tasks(group, problem, strategy.facts.draws, seed=0, split="train", round=1)
    return start, meta, group.tasks


def filled(strategy: PEARL, start, meta, task: Task):
    """Return the memory after two rounds, which hold more than the replay does."""
    memory = start.memory
    for _ in range(2):
        memory = strategy.client_update(start.learner, meta, memory, task).memory
    return memory


def test_equal_factors_have_a_closed_form_and_no_factor_is_the_prior() -> None:
    """k factors N(m, s^2) and N(0, 1): variance 1 / (1 + k / s^2), mean variance k m / s^2."""
    k, m, s2 = 7, 0.6, 0.4
    factors = [torch.full((k, 2), value, dtype=torch.float64) for value in (m, s2)]
    q = product_with_prior(*factors)
    assert q.variance.tolist() == pytest.approx([1 / (1 + k / s2)] * 2, rel=1e-12)
    assert q.mean.tolist() == pytest.approx([k * m / s2 / (1 + k / s2)] * 2, rel=1e-12)
    for none in (
        product_with_prior(torch.zeros(0, 2), torch.ones(0, 2)),
        product_with_prior(*factors, mask=torch.zeros(k, dtype=torch.bool)),
    ):
        assert (none.mean.tolist(), none.variance.tolist()) == ([0, 0], [1, 1])
        assert float(none.divergence()) == 0


def test_no_order_of_what_was_seen_matters_and_masked_rows_are_not_there() -> None:
    _, meta, _ = acting()
    rows = torch.randn(9, 8, generator=seeding.generator(1)).double()
    q = inferred(meta, Context(rows))
    order = torch.randperm(9, generator=seeding.generator(2))
    masked = inferred(meta, Context(torch.cat([rows, rows]), torch.arange(18) < 9))
    for other in (inferred(meta, Context(rows[order])), masked):
        torch.testing.assert_close(q.mean, other.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(q.variance, other.variance, rtol=1e-12, atol=1e-12)


def test_the_parts_of_an_example_weigh_as_much_as_one_of_their_mean() -> None:
    """Four parts of equal factors are one such factor."""
    _, meta, _ = acting()
    row = torch.randn(1, 8, generator=seeding.generator(1)).double()
    one, parts = Context(row), Context(row.expand(4, -1), parts=4)
    for whole, cut in zip(*(inferred(meta, c) for c in (one, parts)), strict=True):
        torch.testing.assert_close(whole, cut, rtol=1e-12, atol=1e-12)


def test_the_divergence_is_that_of_normal_distributions() -> None:
    q = Gaussian(torch.tensor([0.3, -1.2]), torch.tensor([0.5, 2.0]))
    own = torch.distributions.Normal(q.mean, q.variance.sqrt())
    prior = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    expected = torch.distributions.kl_divergence(own, prior).sum()
    torch.testing.assert_close(q.divergence(), expected)
    noise = torch.tensor([1.0, -1.0, 5.0])
    assert q.at(noise).tolist() == pytest.approx([0.3 + 0.5**0.5, -1.2 - 2**0.5])


def test_the_replay_holds_the_last_rows_and_recalls_none_that_was_not_written() -> None:
    memory = empty_replay(5, 1, torch.float64)
    assert recalled(memory, torch.tensor([0.1, 0.9])).tolist() == [[0], [0]]
    memory = remembered(memory, torch.tensor([[1.0], [2.0], [3.0]]).double())
    uniform = seeding.uniform(0, [0], 200)[0]
    assert {*recalled(memory, uniform)[:, 0].tolist()} == {1, 2, 3}
    memory = remembered(memory, torch.tensor([[4.0], [5.0], [6.0]]).double())
    assert {*memory["rows"][:, 0].tolist()} == {2, 3, 4, 5, 6}
    stacked = map_params(lambda value: torch.stack([value, value]), memory)
    both = vmap(remembered)(stacked, torch.tensor([[[7.0]], [[8.0]]]).double())
    assert [sorted(rows[:, 0].tolist()) for rows in both["rows"]] == [
        [3, 4, 5, 6, 7], [3, 4, 5, 6, 8]
    ]  # fmt: skip


def test_the_latent_is_a_further_input_of_the_first_layer() -> None:
    _, meta, _ = acting()
    z, (name,) = torch.tensor([0.4, -1.0, 0.2]).double(), tuple(meta["context"])
    weight = meta["theta"][name.replace("bias", "weight")]
    x = torch.randn(11, weight.shape[1], generator=seeding.generator(1)).double()
    wider = torch.cat([weight, meta["context"][name]], 1)
    by_input = torch.cat([x, z.expand(11, -1)], 1) @ wider.T + meta["theta"][name]
    torch.testing.assert_close(x @ weight.T + conditioned(meta, z)[name], by_input)


@pytest.mark.parametrize("make", [acting, with_critics])
def test_acting_clients_batched_equal_one_by_one(make) -> None:
    strategy = SMALL if make is acting else CRITICS
    start, meta, tasks = make()

    def update(task, memory):
        return strategy.client_update(start.learner, meta, memory, task)

    def rewards(task):
        adapted = strategy.adapt(start.learner, meta, start.memory, task.support)
        return adapted(task.query.x)["rewards"]

    memories = [filled(strategy, start, meta, task_at(tasks, row)) for row in range(2)]
    stacked = map_params(lambda *values: torch.stack(values), *memories)
    together, played = vmap(update)(tasks, stacked), vmap(rewards)(tasks)
    for row, memory in enumerate(memories):
        task = task_at(tasks, row)
        alone = tree_leaves(update(task, memory))
        for single, batched in zip(alone, tree_leaves(together), strict=True):
            torch.testing.assert_close(batched[row], single, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(played[row], rewards(task), rtol=1e-12, atol=1e-12)


def test_where_it_acts_it_sends_the_gradient_of_loss_and_divergence() -> None:
    start, meta, tasks = acting()
    task = task_at(tasks, 0)
    memory = filled(SMALL, start, meta, task)

    def value(point) -> float:
        found = SMALL.client_update(start.learner, point, memory, task).metrics
        return float(found["loss_after"] + SMALL.kl * found["kl"])

    sent = SMALL.client_update(start.learner, meta, memory, task).update
    assert float(sent["encoder"]["1.weight"].norm()) > 1e-4
    for group, params in meta.items():
        for name, tensor in params.items():
            ends = []
            for step in (1e-5, -1e-5):
                moved = tensor.clone()
                moved.view(-1)[0] += step
                ends.append(value(meta | {group: params | {name: moved}}))
            slope = (ends[0] - ends[1]) / 2e-5
            assert float(sent[group][name].view(-1)[0]) == pytest.approx(slope, abs=1e-8)


def test_with_critics_it_sends_the_gradient_of_their_errors_and_of_the_actors_values() -> None:
    """Differences of (Q - target)^2 - value + kl KL, its targets and the value's critics held."""
    start, meta, tasks = with_critics()
    task, learner = task_at(tasks, 0), start.learner
    memory = filled(CRITICS, start, meta, task)
    draws = draws_of(task.support)
    context = seen_by(learner, meta, memory, task, CRITICS.context)
    noise = draws["z"][0]
    after = CRITICS.client_update(learner, meta, memory, task).memory
    again = recalled(after, draws["rows"][1, : CRITICS.batch])
    batch = Batch({"played": again}, again)

    def at(point):
        q = inferred(point, context)
        params = at_latent(learner, point, q.at(noise)).args[0]
        return params, q.at(noise), float(q.divergence())

    held, z, _ = at(meta)
    found = learner.apply(held, batch.x)
    target = found["rewards"] + 0.9 * found["after"]

    def value(point) -> float:
        params, _, nats = at(point)
        missed = (learner.apply(params, batch.x)["q"] - target).square().sum(0)
        actor = {name: v for name, v in params.items() if name.startswith("actor")}
        name = "actor.0.bias"
        actor[name] = point["theta"][name] + point["context"][name] @ z
        gain = learner.apply(held | actor, batch.x)["gain"]
        return float((missed - gain).mean()) + CRITICS.kl * nats

    sent = CRITICS.client_update(learner, meta, memory, task).update
    assert {*sent} == {"theta", "context", "encoder", "slow"}
    assert all(float(slope.abs().sum()) == 0 for slope in sent["slow"].values())
    for group in ("theta", "context", "encoder"):
        for name, tensor in meta[group].items():
            ends = []
            for step in (1e-5, -1e-5):
                near = tensor.clone()
                near.view(-1)[-1] += step
                ends.append(value(meta | {group: meta[group] | {name: near}}))
            slope = (ends[0] - ends[1]) / 2e-5
            assert float(sent[group][name].view(-1)[-1]) == pytest.approx(slope, abs=1e-7)
        assert max(float(slope.abs().max()) for slope in sent[group].values()) > 1e-3


def test_slow_copies_follow_their_parameters_whatever_is_sent_for_them() -> None:
    start, meta, _ = with_critics()
    assert {*meta["slow"]} == {name for name in meta["theta"] if name.startswith("critics.")}
    assert not any(name.startswith(SLOW) for name in meta["theta"])
    update = {group: map_params(torch.ones_like, params) for group, params in meta.items()}
    state = replace(start.state, meta=meta)
    after = replace(CRITICS, rate=0.25).server_update(state, update)
    assert after.finished_rounds == 1
    for name, value in after.meta["slow"].items():
        assert not torch.equal(after.meta["theta"][name], meta["theta"][name])
        expected = 0.75 * meta["slow"][name] + 0.25 * after.meta["theta"][name]
        torch.testing.assert_close(value, expected)


def test_what_the_prior_played_is_kept_apart_and_is_the_context() -> None:
    start, meta, tasks = with_critics()
    task = task_at(tasks, 0)
    memory = start.memory
    for uniform, written, rows in ((0.1, 1, 4), (0.9, 1, 8), (0.4, 2, 12), (0.6, 2, 16)):
        draws = task.support.draws | {"prior": torch.tensor(uniform)}
        this = Task(task.support._replace(draws=draws), task.query)
        before = memory
        update = CRITICS.client_update(start.learner, meta, memory, this)
        memory = update.memory
        assert (float(memory["prior.written"]), float(memory["written"])) == (written, rows)
        known = int(before["prior.written"])
        context = start.learner.network.context_of(before["prior.rows"][:known]).flatten(0, 1)
        q = inferred(meta, Context(context, parts=20))
        assert float(update.metrics["kl"]) == pytest.approx(float(q.divergence()), rel=1e-9)
    assert torch.equal(memory["prior.rows"][:2], memory["rows"][[0, 8]])


def test_a_client_without_a_past_has_the_prior_and_learns_of_what_it_just_played() -> None:
    start, meta, tasks = acting()
    update = SMALL.client_update(start.learner, meta, start.memory, task_at(tasks, 0))
    assert float(update.metrics["kl"]) == 0
    assert float(update.memory["written"]) == 16
    assert float(update.weight) == 16
    assert float(update.metrics["loss_after"]) > 0


def test_without_context_the_support_changes_nothing() -> None:
    blind = replace(SMALL, context=0)
    start, meta, tasks = acting(blind)
    task = task_at(tasks, 0)
    other = task.support._replace(x=task.support.x | {"target": task.support.x["target"] + 3})

    def bias(strategy: PEARL, support: Batch):
        adapted = strategy.adapt(start.learner, meta, start.memory, support)
        return adapted.args[0]["q.body.0.bias"]

    assert torch.equal(bias(blind, task.support), bias(blind, other))
    assert not torch.equal(bias(SMALL, task.support), bias(SMALL, other))


def test_what_is_played_later_is_played_with_what_was_seen_before() -> None:
    """Adapting to the first batch and then playing the second is what adapting to both does."""
    start, meta, _ = acting()
    (group,) = MoleculeDesign().tasks("test", [140], 0, {})
    problem, draws = start.learner.problem, SMALL.facts.draws
    ready = prepared_tasks(group, problem, draws, seed=0, split="test", round=0)
    support = task_at(ready.tasks, 0).support
    first, second = (map_batch(lambda v, k=k: v[k : k + 8], support) for k in (0, 8))
    sizes = []
    original = start.learner.network.context_of

    def seen(rows):
        sizes.append(rows)
        return original(rows)

    start.learner.network.context_of = seen
    adapted = SMALL.adapt(start.learner, meta, start.memory, first)
    asked = adapted(second.x)["played"]
    sizes.clear()
    SMALL.adapt(start.learner, meta, start.memory, support)
    assert [len(rows) for rows in sizes] == [0, 6, 6, 6, 6, 6]
    assert torch.equal(sizes[2], asked[-6:])


def effects(make, strategy: PEARL):
    """Return an update's tensors, the state after it, and what is played after adaptation."""
    start, meta, tasks = make(strategy)
    task = task_at(tasks, 0)
    memory = filled(strategy, start, meta, task)
    adapted = strategy.adapt(start.learner, meta, memory, task.support)(task.query.x)["played"]
    update = strategy.client_update(start.learner, meta, memory, task)
    after = strategy.server_update(replace(start.state, meta=meta), update.update).meta
    return [*tree_leaves(update), *tree_leaves(after), adapted]


@pytest.mark.parametrize(
    ("name", "value"),
    [("latent", 2), ("hidden", 4), ("kl", 0.2), ("context", 5), ("replay", 18), ("batch", 6),
     ("every", 4), ("explored", True)],
)  # fmt: skip
def test_every_setting_matters_where_the_network_acts(name: str, value: float) -> None:
    before = effects(acting, SMALL)
    after = effects(acting, replace(SMALL, **{name: value}))
    assert len(before) != len(after) or not all(map(torch.equal, before, after))


def test_the_rate_matters_where_there_are_slow_copies() -> None:
    before, after = (effects(with_critics, replace(CRITICS, rate=r)) for r in (0.01, 0.5))
    assert not all(map(torch.equal, before, after))


def test_a_network_that_acts_and_recalls_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedProblemError, match=r"Acting, which holds .* cannot: give it"):
        PEARL().build(Navigation().problem(), seeding.generator(0))
