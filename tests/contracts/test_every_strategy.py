"""What every strategy of the catalogue must keep; a new one is tested by being listed there."""

import copy
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.func import vmap

from fedmaml.computing import updates
from fedmaml.core import aggregation, seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.outer_optimizer import OuterOptimizer
from fedmaml.core.params import flatten, layout_of, map_params, sha256, unflatten
from fedmaml.core.requests import TrainRequest
from fedmaml.core.tasks import TaskGroup
from fedmaml.messages.train import (
    TrainRequestWriter,
    read_train_reply,
    read_train_request,
    write_train_reply,
)
from fedmaml.strategies import CATALOGUE, MetaStrategy
from fedmaml.strategies.base import adaptation_of, with_adaptation_steps
from tests.conftest import ROOT

pytestmark = pytest.mark.parametrize("name", CATALOGUE)

STEPS = GradientSteps(lr=0.1, steps=3)


def settings_of(strategy: MetaStrategy) -> dict[str, object]:
    return {field.name: getattr(strategy, field.name) for field in dataclasses.fields(strategy)}


def made(name: str) -> MetaStrategy:
    """Return the strategy with steps large enough to matter, and an outer step that shows."""
    fields = {field.name for field in dataclasses.fields(CATALOGUE[name])}
    changes = {key: STEPS for key in ("inner", "local", "head", "adaptation") if key in fields}
    default = CATALOGUE[name]()
    if "outer" in fields and default.outer.optimizer == "adam":
        changes["outer"] = OuterOptimizer(optimizer="adam", lr=0.05)
    return dataclasses.replace(default, **changes)


def built(name: str, example, seed: int = 0):
    strategy = made(name)
    start = strategy.build(example.problem, seeding.generator(seed))
    # Away from the first point, where biases are 0 and gradients may vanish.
    meta = {
        group: map_params(lambda value: value + 0.01 * torch.ones_like(value).cumsum(-1), params)
        for group, params in start.state.meta.items()
    }
    return strategy, dataclasses.replace(start.state, meta=meta), start


def stacked(memory, clients: int):
    return map_params(lambda value: torch.stack([value] * clients), memory)


def tensors(tree) -> list[torch.Tensor]:
    return torch.utils._pytree.tree_flatten(tree)[0]


def same(left, right) -> bool:
    left, right = tensors(left), tensors(right)
    return len(left) == len(right) and all(map(torch.equal, left, right))


# --- a value ----------------------------------------------------------------------------------


def test_is_frozen_and_made_without_arguments(name: str) -> None:
    strategy = CATALOGUE[name]()
    first = dataclasses.fields(strategy)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(strategy, first, getattr(strategy, first))


def test_equals_and_hashes_by_its_settings(name: str) -> None:
    one, other = CATALOGUE[name](), CATALOGUE[name]()
    assert one == other
    assert hash(one) == hash(other)
    field = "outer" if "outer" in settings_of(one) else "inner"
    changed = dataclasses.replace(
        one, **{field: dataclasses.replace(getattr(one, field), lr=0.123)}
    )
    assert changed != one


def test_refuses_settings_it_does_not_have(name: str) -> None:
    with pytest.raises(ValidationError, match="no_such_setting"):
        CATALOGUE[name](no_such_setting=1)


# --- what a client sends ----------------------------------------------------------------------


def test_update_has_the_tree_shapes_and_dtype_of_meta(name: str, example) -> None:
    strategy, state, start = built(name, example)
    update = strategy.client_update(start.learner, state.meta, start.memory, example.task())
    assert list(update.update) == list(state.meta)
    for group, params in state.meta.items():
        assert layout_of(update.update[group]) == layout_of(params)
        assert {value.dtype for value in update.update[group].values()} == {torch.float64}
    assert layout_of(update.memory) == layout_of(start.memory)
    assert "loss_after" in update.metrics
    assert all(value.shape == () for value in (update.weight, *update.metrics.values()))
    assert all(value.isfinite().all() for value in tensors(update))
    assert not any(value.requires_grad for value in tensors(update))


def test_inputs_are_not_changed(name: str, example) -> None:
    strategy, state, start = built(name, example)
    task = example.task()
    network = start.learner.network.state_dict()
    inputs = (state.meta, state.optimizer, start.memory, task, network)
    before, settings = copy.deepcopy(inputs), copy.deepcopy(settings_of(strategy))
    update = strategy.client_update(start.learner, state.meta, start.memory, task)
    strategy.adapt(start.learner, state.meta, start.memory, task.support)(task.query.x)
    sent = copy.deepcopy(update.update)
    once = strategy.server_update(state, update.update)
    kept = copy.deepcopy((once.meta, once.optimizer))
    strategy.server_update(once, update.update)
    assert same(inputs, before)
    assert same(update.update, sent)
    assert same((once.meta, once.optimizer), kept)
    assert settings_of(strategy) == settings
    assert state.finished_rounds == 0
    assert once.finished_rounds == 1


def test_the_same_seed_gives_the_same_bits(name: str, example) -> None:
    def fingerprint(seed: int) -> str:
        strategy, state, start = built(name, example, seed)
        update = strategy.client_update(start.learner, state.meta, start.memory, example.task())
        after = strategy.server_update(state, update.update)
        return sha256({**after.meta, "memory": update.memory, "metrics": update.metrics})

    torch.manual_seed(1)
    first = fingerprint(0)
    torch.manual_seed(2)
    assert fingerprint(0) == first
    assert fingerprint(1) != first


def test_draws_nothing_from_the_global_generator(name: str, example) -> None:
    before = torch.get_rng_state()
    strategy, state, start = built(name, example)
    strategy.client_update(start.learner, state.meta, start.memory, example.task())
    assert torch.equal(torch.get_rng_state(), before)


def test_batched_equals_one_by_one(name: str, example) -> None:
    strategy, state, start = built(name, example)
    clients = len(example.tasks.query.y)

    def update(task, memory):
        return strategy.client_update(start.learner, state.meta, memory, task)

    together = vmap(update)(example.tasks, stacked(start.memory, clients))
    for client in range(clients):
        alone = update(example.task(client), start.memory)
        for batched, single in zip(tensors(together), tensors(alone), strict=True):
            torch.testing.assert_close(batched[client], single, rtol=1e-12, atol=1e-12)


def test_adaptation_batched_equals_one_by_one(name: str, example) -> None:
    strategy, state, start = built(name, example)
    clients = len(example.tasks.query.y)

    def predict(task, memory):
        return strategy.adapt(start.learner, state.meta, memory, task.support)(task.query.x)

    together = vmap(predict)(example.tasks, stacked(start.memory, clients))
    for client in range(clients):
        alone = predict(example.task(client), start.memory)
        torch.testing.assert_close(together[client], alone, rtol=1e-12, atol=1e-12)


def test_the_update_depends_on_the_clients_data(name: str, example) -> None:
    strategy, state, start = built(name, example)
    one, other = (
        strategy.client_update(start.learner, state.meta, start.memory, example.task(i))
        for i in range(2)
    )
    # Local training sends nothing, whatever its data.
    assert same(one.update, other.update) is not CATALOGUE[name].facts.has_rounds


# --- over the wire ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["stack", "sum"])
def test_survives_the_wire(name: str, form: str, example) -> None:
    strategy, state, start = built(name, example)
    clients = tuple(range(5))
    content = TrainRequestWriter(TrainRequest(3, (), state.meta, form)).write(clients)
    request = read_train_request(content)
    assert same(request.meta, state.meta)
    reply, memories, _ = updates.train(
        strategy,
        start.learner,
        request,
        lambda chunk: [TaskGroup(tuple(chunk), example.tasks)],
        dict.fromkeys(clients, start.memory),
        client_batch=5,
    )
    arrived = read_train_reply(write_train_reply(reply), request, metrics=strategy.facts.metrics)
    assert arrived.clients == clients
    assert arrived.rejected == ()
    assert arrived.weights == reply.weights
    assert arrived.metrics == reply.metrics
    assert sorted(memories) == (list(clients) if start.memory else [])
    for group in state.meta:
        sent, read = reply.update[group], arrived.update[group]
        # Three float64 limbs are smaller than five float64 vectors, so a sum may be sent.
        assert isinstance(read, aggregation.ExactSum) is (form == "sum")
        if isinstance(read, aggregation.ExactSum):
            sent, read = sent.limbs, read.limbs
        assert torch.equal(sent, read)


def test_the_sum_is_the_sum_of_single_updates(name: str, example) -> None:
    strategy, state, start = built(name, example)
    clients = tuple(range(5))
    writer = TrainRequestWriter(TrainRequest(1, (), state.meta))
    request = read_train_request(writer.write(clients))
    reply, _, _ = updates.train(
        strategy,
        start.learner,
        request,
        lambda chunk: [TaskGroup(tuple(chunk), example.tasks)],
        dict.fromkeys(clients, start.memory),
        client_batch=5,
    )
    singles = [
        strategy.client_update(start.learner, state.meta, start.memory, example.task(i))
        for i in clients
    ]
    for group in state.meta:
        by_hand = sum(one.weight * flatten(one.update[group]) for one in singles)
        weight = sum(one.weight for one in singles)
        torch.testing.assert_close(
            reply.update[group].mean(), by_hand / weight, rtol=1e-11, atol=1e-13
        )


# --- learning ---------------------------------------------------------------------------------


def test_loss_falls_over_rounds(name: str, example) -> None:
    """Local training learns within a client, not over rounds: there adaptation must help."""
    strategy = made(name)
    start = strategy.build(example.problem, seeding.generator(0))
    state, clients = start.state, len(example.tasks.query.y)
    memory = stacked(start.memory, clients)

    def query_loss(strategy: MetaStrategy, state) -> float:
        def of_one(task, memory):
            predictor = strategy.adapt(start.learner, state.meta, memory, task.support)
            return start.learner.query_loss(predictor, task.query)

        return float(vmap(of_one)(example.tasks, memory).mean())

    before = query_loss(strategy, state)
    for _ in range(20):
        update = vmap(
            lambda task, memory, meta=state.meta: strategy.client_update(
                start.learner, meta, memory, task
            )
        )(example.tasks, memory)
        mean = {
            group: unflatten(flatten(params, batch_axes=1).mean(0), layout_of(state.meta[group]))
            for group, params in update.update.items()
        }
        state, memory = strategy.server_update(state, mean), update.memory
    assert state.finished_rounds == 20
    if not CATALOGUE[name].facts.has_rounds:
        longer = with_adaptation_steps(strategy, 50)
        assert query_loss(longer, state) < 0.7 * query_loss(
            with_adaptation_steps(strategy, 0), state
        )
        assert query_loss(strategy, state) == before
    else:
        enough = 0.9 if name == "fedbabu" else 0.7  # whose head is not trained
        assert query_loss(strategy, state) < enough * before


def test_no_adaptation_steps_give_the_unadapted_predictor(name: str, example) -> None:
    strategy, state, start = built(name, example)
    if adaptation_of(strategy) is None:
        assert not {"inner", "adaptation"} & set(settings_of(strategy))
        return
    task = example.task()
    none = with_adaptation_steps(strategy, 0)
    assert not adaptation_of(none).moves()
    assert type(none) is type(strategy)
    predict = none.adapt(start.learner, state.meta, start.memory, task.support)
    known = dict(start.learner.network.named_parameters())
    own = {name: value for name, value in start.memory.items() if name in known}
    unadapted = start.learner.apply(state.meta["theta"] | own, task.query.x)
    assert torch.equal(predict(task.query.x), unadapted)
    adapted = strategy.adapt(start.learner, state.meta, start.memory, task.support)
    assert not torch.equal(adapted(task.query.x), unadapted)


# --- the file ---------------------------------------------------------------------------------


def source_file(name: str) -> Path:
    return Path(inspect.getfile(CATALOGUE[name]))


def test_lives_in_a_file_of_its_own_name(name: str) -> None:
    assert source_file(name).stem == name
    assert CATALOGUE[name].__module__ == f"fedmaml.strategies.{name}"


def test_reads_like_its_paper(name: str) -> None:
    doc = inspect.getmodule(CATALOGUE[name]).__doc__
    equations = [line for line in doc.splitlines() if line.startswith("    ")]
    assert any(re.search(r"[=-]", line) for line in equations)
    for verb in ("adapt", "server"):
        assert any(line.strip().startswith(verb) for line in equations)
    assert re.search(r"\b(19|20)\d\d\b", doc), "a source with its year"
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", doc)


def test_says_all_four_verbs_itself_and_overrides_nothing(name: str) -> None:
    own = vars(CATALOGUE[name])
    assert {"build", "adapt", "client_update", "server_update"} <= set(own)
    assert CATALOGUE[name].__bases__ == (MetaStrategy,)


def test_documents_every_setting(name: str) -> None:
    doc = CATALOGUE[name].__doc__
    for field in dataclasses.fields(CATALOGUE[name]):
        assert re.search(rf"^\s+{field.name}: ", doc, re.MULTILINE), field.name


def test_is_as_short_as_an_algorithm(name: str) -> None:
    assert len(source_file(name).read_text().splitlines()) <= 150


def test_stands_on_the_page_about_choosing_in_the_tree_and_in_the_table(name: str) -> None:
    page = (ROOT / "docs/choosing.md").read_text()
    tree, rows = page.split("```")[1], page.partition("## What each costs")[2]
    assert re.search(rf"\b{name}\b", tree)
    assert re.search(rf"^\|.*`{name}`", rows, re.MULTILINE)
