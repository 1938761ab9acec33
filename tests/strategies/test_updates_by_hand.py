"""What strategies send, in numbers anyone can check.

The loss is (theta - c)^2 / 2 on support and query alike, with theta 1, c 0, inner.lr 0.1, one
step: phi = 1 - 0.1 * 1 = 0.9.
"""

import copy
import dataclasses
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.networks import MLP
from fedmaml.core.params import flatten, squared_distance, squared_norm
from fedmaml.core.tasks import joined
from fedmaml.strategies import (
    CATALOGUE,
    FOMAML,
    MAML,
    FedAvg,
    FedProx,
    FedRep,
    Local,
    MetaSGD,
    ProtoNet,
    Reptile,
)
from fedmaml.strategies.base import adaptation_of, with_adaptation_steps

ONE_STEP = GradientSteps(lr=0.1, steps=1)


def sent(strategy, example, theta: float = 1.0):
    """Return what the client of the parabola sends from this theta."""
    start = strategy.build(example.problem, seeding.generator(0))
    point = {"theta": {"head.weight": torch.full((1, 1), theta, dtype=torch.float64)}}
    meta = start.state.meta | point
    update = strategy.client_update(start.learner, meta, start.memory, example.task())
    return update, {group: float(params["head.weight"]) for group, params in update.update.items()}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # d/dtheta (0.9 theta)^2 / 2 = 0.9 * 0.9 theta
        (MAML(inner=ONE_STEP), {"theta": 0.81}),
        # the gradient at phi: 0.9
        (FOMAML(inner=ONE_STEP), {"theta": 0.9}),
        # theta - phi = 1 - 0.9
        (Reptile(inner=ONE_STEP), {"theta": 0.1}),
        (FedAvg(inner=ONE_STEP), {"theta": 0.1}),
        # one step from theta, where the proximal term has no slope
        (FedProx(inner=ONE_STEP, mu=5.0), {"theta": 0.1}),
        # theta as MAML; alpha: - grad support * grad query = - 1 * 0.9
        (MetaSGD(inner=ONE_STEP), {"theta": 0.81, "alpha": -0.9}),
        (Local(inner=ONE_STEP), {"theta": 0.0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_step_sends(strategy, expected: dict[str, float], parabola) -> None:
    assert sent(strategy, parabola)[1] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # phi_3 = 0.729: the gradient 0.729 times d phi / d theta = 0.729
        (MAML(inner=GradientSteps(lr=0.1, steps=3)), 0.729**2),
        (FOMAML(inner=GradientSteps(lr=0.1, steps=3)), 0.729),
        (Reptile(inner=GradientSteps(lr=0.1, steps=3)), 1 - 0.729),
        # phi_1 = 0.9; its gradient is 0.9 + mu (0.9 - 1) = 0.4 with mu = 5; phi_2 = 0.86
        (FedProx(inner=GradientSteps(lr=0.1, steps=2), mu=5.0), 0.14),
    ],
    ids=lambda value: type(value).__name__,
)
def test_several_steps_send(strategy, expected: float, parabola) -> None:
    assert sent(strategy, parabola)[1]["theta"] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("strategy", [MAML(inner=ONE_STEP), FOMAML(inner=ONE_STEP)])
def test_losses_before_and_after_adaptation(strategy, parabola) -> None:
    # 1^2 / 2 and 0.9^2 / 2
    metrics = sent(strategy, parabola)[0].metrics
    assert float(metrics["loss_before"]) == pytest.approx(0.5, abs=1e-15)
    assert float(metrics["loss_after"]) == pytest.approx(0.405, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("maml", 9), ("fomaml", 9), ("meta_sgd", 9), ("protonet", 9), ("local", 9),
     ("fedavg", 15), ("fedprox", 15), ("reptile", 15), ("fedrep", 15)],
)  # fmt: skip
def test_weight_counts_the_examples_behind_the_update(name, expected, classification) -> None:
    # 6 support and 9 query examples; a meta-gradient is the mean over the query set alone.
    strategy = CATALOGUE[name]()
    start = strategy.build(classification.problem, seeding.generator(0))
    update = strategy.client_update(
        start.learner, start.state.meta, start.memory, classification.task()
    )
    assert float(update.weight) == expected
    assert update.weight.dtype == torch.float64


def updates(strategy, example, memory=None):
    start = strategy.build(example.problem, seeding.generator(0))
    memory = start.memory if memory is None else memory
    return start, strategy.client_update(start.learner, start.state.meta, memory, example.task())


def test_first_order_maml_differs_from_maml_at_several_steps(classification) -> None:
    steps = GradientSteps(lr=0.3, steps=3)
    exact = updates(MAML(inner=steps), classification)[1].update["theta"]
    first = updates(FOMAML(inner=steps), classification)[1].update["theta"]
    assert squared_distance(exact, first) > 0.01 * squared_norm(exact)


def test_without_steps_maml_first_order_maml_and_the_gradient_agree(classification) -> None:
    none = GradientSteps(lr=0.3, steps=0)
    exact = updates(MAML(inner=none), classification)[1].update["theta"]
    first = updates(FOMAML(inner=none), classification)[1].update["theta"]
    assert torch.equal(flatten(exact), flatten(first))
    start, _ = updates(MAML(inner=none), classification)
    theta = {name: value.requires_grad_() for name, value in start.state.meta["theta"].items()}
    loss = start.learner.query_loss(
        lambda x: start.learner.apply(theta, x), classification.task().query
    )
    plain = torch.autograd.grad(loss, list(theta.values()))
    assert torch.equal(flatten(exact), flatten(dict(zip(theta, plain, strict=True))))


def test_fedprox_without_its_term_is_fedavg(classification) -> None:
    steps = GradientSteps(lr=0.3, steps=4)
    prox = updates(FedProx(inner=steps, mu=0.0), classification)[1]
    avg = updates(FedAvg(inner=steps), classification)[1]
    assert torch.equal(flatten(prox.update["theta"]), flatten(avg.update["theta"]))


def test_fedprox_stays_nearer_to_theta_the_larger_mu(classification) -> None:
    steps = GradientSteps(lr=0.1, steps=20)
    moved = [
        float(squared_norm(updates(FedProx(inner=steps, mu=mu), classification)[1].update["theta"]))
        for mu in (0.0, 0.5, 5.0)
    ]
    assert moved[0] > moved[1] > moved[2] > 0


def test_local_sends_zero_and_its_server_keeps_theta(classification) -> None:
    start, update = updates(Local(), classification)
    assert not flatten(update.update["theta"]).any()
    after = Local().server_update(start.state, update.update)
    assert torch.equal(flatten(after.meta["theta"]), flatten(start.state.meta["theta"]))
    assert after.finished_rounds == 1


def test_fedavg_of_one_client_moves_theta_to_its_weights(parabola) -> None:
    strategy = FedAvg(inner=ONE_STEP)
    start = strategy.build(parabola.problem, seeding.generator(0))
    one = {"theta": {"head.weight": torch.ones(1, 1, dtype=torch.float64)}}
    update, _ = sent(strategy, parabola)
    state = dataclasses.replace(start.state, meta=one)
    after = strategy.server_update(state, update.update)
    assert float(after.meta["theta"]["head.weight"]) == pytest.approx(0.9, abs=1e-15)


def test_meta_sgd_starts_with_the_inner_rate_everywhere_and_as_maml(classification) -> None:
    steps = GradientSteps(lr=0.07, steps=2)
    start, update = updates(MetaSGD(inner=steps), classification)
    alpha = start.state.meta["alpha"]
    assert list(alpha) == list(start.state.meta["theta"])
    assert (flatten(alpha) == 0.07).all()
    maml = updates(MAML(inner=steps), classification)[1]
    torch.testing.assert_close(
        flatten(update.update["theta"]), flatten(maml.update["theta"]), rtol=1e-12, atol=1e-14
    )


# --- ProtoNet ---------------------------------------------------------------------------------


def protonet(example):
    strategy = ProtoNet()
    return strategy, strategy.build(example.problem, seeding.generator(0))


def without_class(batch, label: int):
    keep = batch.y != label
    return type(batch)(batch.x[keep], batch.y[keep])


def test_protonet_predicts_the_class_of_the_nearest_mean(classification) -> None:
    strategy, start = protonet(classification)
    task = classification.task()
    embed = start.learner.apply(start.state.meta["theta"], task.support.x)
    means = torch.stack([embed[task.support.y == label].mean(0) for label in range(3)])
    query = start.learner.apply(start.state.meta["theta"], task.query.x)
    predict = strategy.adapt(start.learner, start.state.meta, {}, task.support)
    expected = -torch.cdist(query, means).square()
    torch.testing.assert_close(predict(task.query.x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1e5], ids=["near", "far"])
def test_protonet_never_predicts_an_absent_class(classification, scale: float) -> None:
    # "far": embeddings without a bound, so that squared distances go far beyond 10^6.
    problem = dataclasses.replace(classification.problem, network=lambda: MLP((4, 6, 3)))
    strategy, start = protonet(classification._replace(problem=problem))
    task = classification.task()
    support = without_class(task.support, 1)
    support = support._replace(x=scale * support.x)
    predict = strategy.adapt(start.learner, start.state.meta, {}, support)
    assert set(predict(task.query.x).argmax(-1).tolist()) <= {0, 2}


def test_a_query_class_without_support_does_not_swamp_protonets_loss(classification) -> None:
    # No predictor can be right there. With p(absent class) = e^-20 an example costs about 20; one
    # that costs 10^6 drowns all others, in the log and, through rounding, in the gradient.
    strategy, start = protonet(classification)
    task = classification.task()
    task = task._replace(support=without_class(task.support, 1))
    update = strategy.client_update(start.learner, start.state.meta, {}, task)
    assert float(update.metrics["loss_after"]) < 100


def test_protonet_has_no_head_and_refuses_a_problem_without_classes(
    classification, parabola
) -> None:
    _, start = protonet(classification)
    assert list(start.state.meta["theta"]) == ["body.0.weight", "body.0.bias"]
    with pytest.raises(UnsupportedProblemError, match="protonet adapts by class means"):
        ProtoNet().build(parabola.problem, seeding.generator(0))


# --- FedRep -----------------------------------------------------------------------------------


def test_fedrep_sends_the_body_and_keeps_the_head(classification) -> None:
    strategy = FedRep(inner=ONE_STEP)
    start, update = updates(strategy, classification)
    assert list(update.update["theta"]) == ["body.0.weight", "body.0.bias"]
    assert list(update.memory) == list(start.memory) == ["head.weight", "head.bias"]
    assert squared_distance(update.memory, start.memory) > 0


def test_fedrep_uses_the_head_it_kept_next_time(classification) -> None:
    strategy = FedRep(inner=ONE_STEP, head=ONE_STEP)
    start, first = updates(strategy, classification)
    _, second = updates(strategy, classification, first.memory)
    # Two head steps of one each are two steps at once, as the body is the same.
    twice = dataclasses.replace(strategy, head=GradientSteps(lr=0.1, steps=2))
    both = updates(twice, classification)[1]
    torch.testing.assert_close(flatten(second.memory), flatten(both.memory), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        flatten(second.update["theta"]), flatten(both.update["theta"]), rtol=1e-12, atol=1e-15
    )
    assert squared_distance(first.update["theta"], second.update["theta"]) > 0
    assert squared_distance(start.memory, first.memory) > 0


def test_fedrep_adapts_from_its_own_head_without_changing_the_body(classification) -> None:
    strategy = FedRep(adaptation=GradientSteps(lr=0.1, steps=0))
    start, update = updates(strategy, classification)
    x = classification.task().query.x
    own = strategy.adapt(
        start.learner, start.state.meta, update.memory, classification.task().support
    )
    expected = start.learner.apply(start.state.meta["theta"] | update.memory, x)
    assert torch.equal(own(x), expected)


def test_fedrep_trains_the_body_under_the_new_head(classification) -> None:
    # One body step of rate 0.1 at the head after its step.
    strategy = FedRep(inner=ONE_STEP, head=ONE_STEP)
    start, update = updates(strategy, classification)
    local = joined(classification.task())
    slope = torch.func.grad(lambda body: start.learner.loss(body | update.memory, local))(
        start.state.meta["theta"]
    )
    torch.testing.assert_close(
        flatten(update.update["theta"]), 0.1 * flatten(slope), rtol=1e-12, atol=1e-15
    )


def test_fedrep_refuses_a_network_that_is_all_head(parabola) -> None:
    with pytest.raises(UnsupportedProblemError, match="no layers before its head"):
        FedRep().build(parabola.problem, seeding.generator(0))


# --- steps of adaptation ----------------------------------------------------------------------


def test_adaptation_steps_are_the_fine_tuning_steps_where_there_are_any() -> None:
    five, two = GradientSteps(steps=5), GradientSteps(steps=2)
    assert adaptation_of(FedAvg(inner=five, adaptation=two)) == two
    assert adaptation_of(MAML(inner=five)) == five
    assert adaptation_of(ProtoNet()) is None


def test_with_adaptation_steps_leaves_training_of_averaging_strategies_alone() -> None:
    changed = with_adaptation_steps(Reptile(), 7)
    assert changed.adaptation.steps == 7
    assert changed.inner == Reptile().inner
    assert with_adaptation_steps(MAML(), 7).inner.steps == 7


# --- local epochs of mini-batches ---------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "batch"), [(1, 4), (3, 4), (2, 1), (2, 7), (4, 100)])
def test_fedavg_with_epochs_of_batches_equals_a_plain_sgd_loop(
    epochs: int, batch: int, classification
) -> None:
    """Two rounds of three clients, against nn.Module, DataLoader and torch.optim.SGD."""
    problem = replace(classification.problem, l2=0.0)
    clients, weights = range(3), []
    strategy = FedAvg(inner=GradientSteps(lr=0.2, batch=batch, epochs=epochs))
    learner, state, _ = strategy.build(problem, seeding.generator(0))
    network = copy.deepcopy(learner.network).requires_grad_(True)
    network.load_state_dict(state.meta["theta"])
    for _ in range(2):
        locally = []
        for client in clients:
            task = classification.task(client)
            data = TensorDataset(*map(torch.cat, zip(*task, strict=True)))
            local = copy.deepcopy(network)
            optimizer = torch.optim.SGD(local.parameters(), lr=0.2)
            for _ in range(epochs):
                for x, y in DataLoader(data, batch_size=batch, shuffle=False):
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(local(x), y).backward()
                    optimizer.step()
            locally.append(local.state_dict())
            weights.append(len(data))
        mean = {
            name: torch.stack([own[name] for own in locally]).mean(0) for name in locally[0]
        }  # all clients hold as many examples
        network.load_state_dict(mean)
        sent = [
            strategy.client_update(learner, state.meta, {}, classification.task(client)).update
            for client in clients
        ]
        update = {
            name: torch.stack([own["theta"][name] for own in sent]).mean(0)
            for name in state.meta["theta"]
        }
        state = strategy.server_update(state, {"theta": update})
    assert set(weights) == {15}
    for name, value in network.state_dict().items():
        torch.testing.assert_close(state.meta["theta"][name], value, rtol=1e-12, atol=1e-13)
