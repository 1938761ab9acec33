"""Strategies that predict from an embedded support: definitions, and what must not matter."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.learner import Problem
from fedmaml.core.losses import cross_entropy, squared_error
from fedmaml.core.networks import MLP
from fedmaml.core.params import MetaParams, Params, map_params
from fedmaml.core.tasks import Batch, Task
from fedmaml.strategies import (
    ANP,
    CATALOGUE,
    CNP,
    MANN,
    SNAIL,
    MatchingNet,
    MetaMemory,
    MetaNet,
    MetaStrategy,
    ProtoNet,
    Relation,
    Siamese,
)
from fedmaml.strategies.comparing import LEARNED, absent_last, by_attention
from fedmaml.strategies.snail import _attention, _convolution
from tests.conftest import NEED_CLASSES, Example

CONTEXT = MatchingNet(full_context=True)
OF_A_SET = [ProtoNet(), MatchingNet(), Siamese(), Relation(), CNP(), ANP(), MetaNet()]
OF_AN_ORDER = [CONTEXT, MANN(), SNAIL()]
OF_NAMES = [ProtoNet(), MatchingNet(), CONTEXT, Siamese(), Relation(), MetaMemory()]
EVERY = [*OF_A_SET, *OF_AN_ORDER, MetaMemory()]


def ids(strategy: object) -> str:
    return type(strategy).__name__ + ("-context" if strategy == CONTEXT else "")


def built(strategy: MetaStrategy, example: Example):
    """Return learner and meta-parameters away from the start, where biases may be 0."""
    start = strategy.build(example.problem, seeding.generator(0))
    rng = seeding.generator(0, "moved")

    def moved(value: Tensor) -> Tensor:
        return value + 0.2 * torch.randn(value.shape, generator=rng, dtype=value.dtype)

    meta = {group: map_params(moved, params) for group, params in start.state.meta.items()}
    return start.learner, meta


def predictions(strategy: MetaStrategy, example: Example, task: Task | None = None) -> Tensor:
    learner, meta = built(strategy, example)
    task = task or example.task()
    return strategy.adapt(learner, meta, {}, task.support)(task.query.x)


def parts(strategy: MetaStrategy, example: Example) -> tuple[Tensor, Tensor, Tensor, Params]:
    """Return embedded support, its labels, embedded query and what the comparison learned."""
    (learner, meta), task = built(strategy, example), example.task()
    embed = [learner.apply(meta["theta"], batch.x) for batch in task]
    return embed[0], task.support.y, embed[1], meta.get(LEARNED, {})


def layer(learned: Params, name: str, x: Tensor) -> Tensor:
    return x @ learned[f"{name}.weight"].T + learned[f"{name}.bias"]


close = torch.testing.assert_close


# --- what must not matter ---------------------------------------------------------------------


def reordered(batch: Batch, order: list[int]) -> Batch:
    return Batch(batch.x[order], batch.y[order])


ORDER = [3, 0, 5, 1, 4, 2]


@pytest.mark.parametrize("strategy", OF_A_SET, ids=ids)
def test_the_order_of_examples_does_not_matter(strategy, classification) -> None:
    task = classification.task()
    other = task._replace(support=reordered(task.support, ORDER))
    found = predictions(strategy, classification, other)
    close(found, predictions(strategy, classification), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("strategy", OF_AN_ORDER, ids=ids)
def test_the_order_of_examples_is_read_where_the_method_says_so(strategy, classification) -> None:
    task = classification.task()
    other = task._replace(support=reordered(task.support, ORDER))
    found = predictions(strategy, classification, other)
    assert (found - predictions(strategy, classification)).abs().max() > 1e-5


@pytest.mark.parametrize("strategy", OF_NAMES, ids=ids)
def test_the_names_of_classes_do_not_matter(strategy, classification) -> None:
    task, names = classification.task(), torch.tensor([2, 0, 1])
    other = task._replace(support=task.support._replace(y=names[task.support.y]))
    found = predictions(strategy, classification, other)[:, names]
    close(found, predictions(strategy, classification), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("strategy", EVERY, ids=ids)
def test_queries_neither_see_each_other_nor_their_order(strategy, classification) -> None:
    (learner, meta), task = built(strategy, classification), classification.task()
    predict = strategy.adapt(learner, meta, {}, task.support)
    together = predict(task.query.x)
    close(predict(task.query.x.flip(0)).flip(0), together, rtol=1e-13, atol=1e-13)
    alone = torch.cat([predict(x[None]) for x in task.query.x])
    close(alone, together, rtol=1e-12, atol=1e-13)


# --- little data ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", OF_NAMES, ids=ids)
def test_a_class_without_examples_is_never_predicted_and_does_not_swamp_the_loss(
    strategy, classification
) -> None:
    task = classification.task()
    kept = (task.support.y != 1).nonzero()[:, 0].tolist()
    task = task._replace(support=reordered(task.support, kept))
    assert set(predictions(strategy, classification, task).argmax(-1).tolist()) <= {0, 2}
    learner, meta = built(strategy, classification)
    update = strategy.client_update(learner, meta, {}, task)
    assert float(update.metrics["loss_after"]) < 100
    assert all(v.isfinite().all() for params in update.update.values() for v in params.values())


@pytest.mark.parametrize("strategy", EVERY, ids=ids)
def test_one_example_is_enough_to_answer(strategy, classification) -> None:
    task = classification.task()
    task = task._replace(support=reordered(task.support, [4]))
    found = predictions(strategy, classification, task)
    assert found.shape == (9, 3)
    assert found.isfinite().all()
    if strategy in OF_NAMES:
        assert set(found.argmax(-1).tolist()) == {int(task.support.y)}


@pytest.mark.parametrize("name", NEED_CLASSES)
def test_a_problem_without_classes_is_refused_by_name(name: str, regression) -> None:
    with pytest.raises(UnsupportedProblemError, match=rf"^{name} .*needs a problem with classes"):
        CATALOGUE[name]().build(regression.problem, seeding.generator(0))


def test_a_head_that_is_not_one_layer_is_refused_where_its_size_is_needed() -> None:
    def network() -> torch.nn.Module:
        made = MLP((4, 6, 3))
        made.head = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
        return made

    problem = Problem(network, cross_entropy, (), classes=3)
    with pytest.raises(UnsupportedProblemError, match="one linear layer; it has 2 weight matrices"):
        Relation().build(problem, seeding.generator(0))
    ProtoNet().build(problem, seeding.generator(0))


def test_absent_classes_lie_twenty_below_the_largest() -> None:
    logits, present = torch.tensor([[1.0, 99.0, 3.0]]), torch.tensor([True, False, True])
    assert absent_last(logits, present).tolist() == [[1, -17, 3]]


# --- definitions ------------------------------------------------------------------------------


def test_matching_is_attention_over_the_support(classification) -> None:
    support, y, query, _ = parts(MatchingNet(scale=3.0), classification)
    attention = (3.0 * F.cosine_similarity(query[:, None], support[None], dim=-1)).softmax(-1)
    expected = attention @ F.one_hot(y, 3).to(attention.dtype)  # eq. 1
    found = predictions(MatchingNet(scale=3.0), classification)
    close(found.softmax(-1), expected, rtol=1e-12, atol=1e-13)


def test_attention_of_classes_sums_that_of_their_examples() -> None:
    # e^1 + e^2 of class 0, e^3 of class 2, nothing of class 1
    member = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)
    found = by_attention(torch.tensor([[1.0, 2.0, 3.0]]), member).exp()
    assert found[0].tolist() == pytest.approx([math.e + math.e**2, math.exp(3 - 20), math.e**3])


def test_full_context_with_gates_closed_is_no_context(classification) -> None:
    """With every output gate shut the LSTMs add nothing."""
    learner, meta = built(CONTEXT, classification)
    width = 6
    shut = {
        name: value.index_fill(0, torch.arange(2 * width, 3 * width), -1e4)
        if name.endswith("bias") else value * 0
        for name, value in meta[LEARNED].items()
    }  # fmt: skip
    task = classification.task()
    found = CONTEXT.adapt(learner, meta | {LEARNED: shut}, {}, task.support)(task.query.x)
    close(found, predictions(MatchingNet(), classification), rtol=1e-12, atol=1e-13)


def test_siamese_compares_pairs_and_its_loss_is_that_of_pairs(classification) -> None:
    support, y, query, learned = parts(Siamese(), classification)
    weight, bias = learned["same.weight"][0], learned["same.bias"]
    expected = torch.stack([
        ((query[:, None] - support[y == label]).abs() @ weight + bias).mean(-1)
        for label in range(3)
    ], -1)  # fmt: skip
    close(predictions(Siamese(), classification), expected, rtol=1e-12, atol=1e-13)
    learner, meta = built(Siamese(), classification)
    task = classification.task()
    update = Siamese().client_update(learner, meta, {}, task)
    same = F.one_hot(task.query.y, 3).double()
    each = F.binary_cross_entropy_with_logits(expected, same, reduction="none")
    loss = (each * torch.where(same > 0, 1.0, 0.5)).sum(-1).mean()  # two other classes
    close(update.metrics["loss_after"], loss, rtol=1e-12, atol=1e-13)


def test_relation_scores_pairs_of_mean_and_query_by_squares(classification) -> None:
    support, y, query, learned = parts(Relation(), classification)
    expected = torch.empty(9, 3, dtype=torch.float64)
    for label in range(3):
        mean = support[y == label].mean(0)
        for i, x in enumerate(query):
            hidden = layer(learned, "relate", torch.cat([mean, x])).relu()
            expected[i, label] = layer(learned, "score", hidden)[0]
    close(predictions(Relation(), classification), expected, rtol=1e-12, atol=1e-13)
    squared = Relation(loss="squares")
    learner, meta = built(squared, classification)
    task = classification.task()
    update = squared.client_update(learner, meta, {}, task)
    squares = (expected.sigmoid() - F.one_hot(task.query.y, 3)).square().sum(-1).mean()
    close(update.metrics["loss_after"], squares, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_neural_processes_by_their_equations(kind: str, request) -> None:
    example = request.getfixturevalue(kind)
    for strategy in (CNP(), ANP()):
        support, y, query, learned = parts(strategy, example)
        y = F.one_hot(y, 3) if kind == "classification" else y
        says = layer(learned, "h2", layer(learned, "h1", torch.cat([support, y], -1)).relu())
        rows = []
        for x in query:
            given = [x, says.mean(0)]
            if isinstance(strategy, ANP):
                scores = layer(learned, "key", support) @ layer(learned, "query", x) / 64**0.5
                given.insert(1, scores.softmax(0) @ says)
            rows.append(layer(learned, "g2", layer(learned, "g1", torch.cat(given)).relu()))
        close(predictions(strategy, example), torch.stack(rows), rtol=1e-12, atol=1e-13)


def test_metanets_fast_weights_are_gradients_through_a_network(classification) -> None:
    strategy = MetaNet(scale=2.0)
    support, y, query, learned = parts(strategy, classification)
    with_one = [torch.cat([x, x.new_ones(len(x), 1)], -1) for x in (support, query)]
    slow = torch.cat([learned["slow.weight"], learned["slow.bias"][:, None]], -1)
    fast = []
    for z, label in zip(with_one[0], y, strict=True):
        weights = slow.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(weights @ z, label), weights)
        fast.append(layer(learned, "z2", layer(learned, "z1", slope[..., None]).tanh())[..., 0])
    attention = (2 * F.cosine_similarity(query[:, None], support[None], dim=-1)).softmax(-1)
    expected = [
        (slow + sum(a * own for a, own in zip(weights, fast, strict=True))) @ z
        for weights, z in zip(attention, with_one[1], strict=True)
    ]
    close(predictions(strategy, classification), torch.stack(expected), rtol=1e-11, atol=1e-12)


def test_meta_memory_merges_the_near_of_a_class_and_is_matching_at_one_shot(classification) -> None:
    task = classification.task()
    one_shot = task._replace(support=reordered(task.support, [0, 1, 2]))
    close(predictions(MetaMemory(), classification, one_shot),
          predictions(MatchingNet(), classification, one_shot), rtol=1e-12, atol=1e-13)  # fmt: skip
    support, y, query, _ = parts(MetaMemory(), classification)
    keys: list[Tensor] = []
    labels: list[int] = []
    for q, label in zip(F.normalize(support, dim=-1), y.tolist(), strict=True):
        near = max(range(len(keys)), key=lambda n, q=q: float(keys[n] @ q), default=None)
        if near is not None and labels[near] == label:
            keys[near] = F.normalize(keys[near] + q, dim=0)
        else:
            keys.append(q)
            labels.append(label)
    assert 3 <= len(keys) < 6  # something was merged
    attention = (10 * F.normalize(query, dim=-1) @ torch.stack(keys).T).softmax(-1)
    expected = attention @ F.one_hot(torch.tensor(labels), 3).double()
    found = predictions(MetaMemory(), classification).softmax(-1)
    close(found, expected, rtol=1e-12, atol=1e-13)


def test_snail_is_the_end_of_one_sequence_for_each_query(classification) -> None:
    """Written a second time: the query stands in the sequence, position by position."""
    strategy = SNAIL(filters=4, keys=3, dilations=2)
    support, y, query, learned = parts(strategy, classification)
    known = torch.cat([support, F.one_hot(y, 3).double()], -1)

    def attend(name: str, z: list[Tensor]) -> list[Tensor]:
        q, k, v = ([layer(learned, f"{name}.{part}", x) for x in z] for part in "qkv")
        rows = []
        for t, x in enumerate(z):
            weights = torch.stack([q[t] @ k[s] / 3**0.5 for s in range(t + 1)]).softmax(0)
            rows.append(torch.cat([x, weights @ torch.stack(v[: t + 1])]))
        return rows

    def convolve(name: str, dilation: int, z: list[Tensor]) -> list[Tensor]:
        rows = []
        for t, x in enumerate(z):
            before = z[t - dilation] if t >= dilation else torch.zeros_like(x)
            new, gate = layer(learned, name, torch.cat([before, x])).chunk(2)
            rows.append(torch.cat([x, new.tanh() * gate.sigmoid()]))
        return rows

    expected = []
    for x in query:
        z = attend("first", [*known, torch.cat([x, x.new_zeros(3)])])
        for level in range(2):
            z = convolve(f"convolution{level}", 2**level, z)
        expected.append(layer(learned, "head", attend("last", z)[-1]))
    close(predictions(strategy, classification), torch.stack(expected), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("changed", range(1, 6))
def test_snail_reads_nothing_that_comes_later(changed: int, classification: Example) -> None:
    """Rows of the support before a changed one, and all before a changed query, keep their bits."""
    strategy = SNAIL(filters=4, keys=3, dilations=1)
    support, y, query, learned = parts(strategy, classification)
    known = torch.cat([support, F.one_hot(y, 3).double()], -1)
    unknown = torch.cat([query, query.new_zeros(len(query), 3)], -1)

    def outputs(known: Tensor, unknown: Tensor) -> list[Tensor]:
        attended = _attention(learned, "first", (known, unknown))
        return [attended[0], _convolution(learned, "convolution0", 1, attended)[0]]

    other = known.clone()
    other[changed] += 1
    plain = outputs(known, unknown)
    for now, before in zip(outputs(other, unknown), plain, strict=True):
        assert torch.equal(now[:changed], before[:changed])
        new = before[changed:, known.shape[1] :] != now[changed:, known.shape[1] :]
        assert new[0].any()
        assert new.any(1).sum() >= min(2, len(new))  # and who comes later reads it
    for now, before in zip(outputs(known, unknown + 1), plain, strict=True):
        assert torch.equal(now, before)


def test_mann_by_its_equations(classification) -> None:
    """Written a second time, with lists of rows in the place of matrices; three rows are reused."""
    strategy = MANN(hidden=5, slots=3, width=4, scale=2.0, decay=0.9)
    support, y, query, learned = parts(strategy, classification)

    def control(x: Tensor, target: Tensor, read: Tensor, h: Tensor, cell: Tensor):
        i, f, o, g = layer(learned, "controller", torch.cat([x, target, read, h])).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    def reading(memory: list[Tensor], key: Tensor) -> Tensor:
        like = [F.cosine_similarity(key, row, dim=0) for row in memory]
        return (2 * torch.stack(like)).softmax(0)

    zero = support.new_zeros
    h, cell, r, weights = zero(5), zero(5), zero(4), zero(3)
    memory, usage = [zero(4) for _ in range(3)], [0.0] * 3
    for x, label in zip(support, F.one_hot(y, 3).double(), strict=True):
        h, cell = control(x, label, r, h, cell)
        key, gate = layer(learned, "key", h).tanh(), float(layer(learned, "gate", h).sigmoid())
        least = usage.index(min(usage))
        written = [gate * float(weights[n]) + (1 - gate) * (n == least) for n in range(3)]
        memory[least] = zero(4)
        memory = [row + w * key for row, w in zip(memory, written, strict=True)]
        weights = reading(memory, key)
        r = weights @ torch.stack(memory)
        usage = [0.9 * u + float(w) + v for u, w, v in zip(usage, weights, written, strict=True)]
    expected = []
    for x in query:
        last, _ = control(x, zero(3), r, h, cell)
        own = reading(memory, layer(learned, "key", last).tanh()) @ torch.stack(memory)
        expected.append(layer(learned, "out", torch.cat([last, own])))
    close(predictions(strategy, classification), torch.stack(expected), rtol=1e-10, atol=1e-11)


def test_a_squared_loss_of_several_outputs_is_taken(regression) -> None:
    problem = dataclasses.replace(regression.problem, network=lambda: MLP((4, 6, 2)))
    problem = dataclasses.replace(problem, loss=squared_error)
    tasks = Task(*(Batch(x, x[..., :2]) for x, _ in regression.tasks))
    for strategy in (CNP(), ANP(), MANN(), SNAIL()):
        assert predictions(strategy, Example(problem, tasks)).shape == (9, 2)


def test_what_a_comparison_learns_is_a_group_of_its_own(classification) -> None:
    meta: MetaParams = built(Relation(), classification)[1]
    assert set(meta) == {"theta", LEARNED}
    assert set(built(MatchingNet(), classification)[1]) == {"theta"}
