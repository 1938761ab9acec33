"""Strategies that train a model for each client: what they keep, send, and where they end."""

import dataclasses

import pytest
import torch
from torch.func import vmap

from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.params import Params, flatten, map_params, squared_distance
from fedmaml.core.tasks import Task, joined
from fedmaml.simulations.scenarios.quadratic import Quadratic
from fedmaml.strategies import (
    APFL,
    FOMAML,
    MAML,
    Ditto,
    FedAvg,
    FedBABU,
    PerFedAvgFO,
    PerFedAvgHF,
    PFedMe,
    QFedAvg,
    Scaffold,
)
from fedmaml.verification import _classification_problem, _classification_task, _with_noise
from fedmaml.verification.plain import descend, network_at, values_of

STEPS = GradientSteps(lr=0.1, steps=3)
ONCE = GradientSteps(lr=0.1, steps=1)


def updates(strategy, example, memory=None):
    start = strategy.build(example.problem, seeding.generator(0))
    memory = start.memory if memory is None else memory
    return start, strategy.client_update(start.learner, start.state.meta, memory, example.task())


def close(left: Params, right: Params, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(flatten(left), flatten(right), rtol=tolerance, atol=tolerance / 100)


# --- Per-FedAvg -------------------------------------------------------------------------------


def test_one_meta_step_of_per_fedavg_is_a_step_along_the_gradient_of_maml(classification) -> None:
    for cls, known, tolerance in (
        (PerFedAvgFO, FOMAML, 1e-12),
        (PerFedAvgHF, MAML, 1e-6),  # differences: an error of delta^2
    ):
        sent = updates(cls(inner=STEPS, local=ONCE), classification)[1].update["theta"]
        gradient = updates(known(inner=STEPS), classification)[1].update["theta"]
        close(sent, map_params(lambda g: 0.1 * g, gradient), tolerance)


def test_differences_do_not_depend_on_the_size_of_the_gradient(classification) -> None:
    """With a loss 1e6 times as large, and rates as much smaller, nothing changes."""
    strategy = PerFedAvgHF(inner=STEPS, local=ONCE)
    loss = classification.problem.loss
    large = dataclasses.replace(
        classification.problem, loss=lambda p, y: 1e6 * loss(p, y), l2=1e6 * 0.01
    )
    slow = GradientSteps(lr=1e-7, steps=3)
    other = PerFedAvgHF(inner=slow, local=GradientSteps(lr=1e-7, steps=1))
    one = updates(strategy, classification)[1].update["theta"]
    close(updates(other, classification._replace(problem=large))[1].update["theta"], one, 1e-8)


# --- pFedMe -----------------------------------------------------------------------------------


def test_pfedme_follows_the_gradient_of_the_moreau_envelope(classification) -> None:
    """At the minimum phi: grad L(phi) + lam (phi - w) = 0, so lam (w - phi) = grad L(phi)."""
    strategy = PFedMe(inner=GradientSteps(lr=0.05, steps=400), local=ONCE, lam=3.0)
    start, sent = updates(strategy, classification)
    local = joined(classification.task())
    phi = strategy._near(start.learner, start.state.meta["theta"], local)
    slope = torch.func.grad(lambda w: start.learner.loss(w, local))(phi)
    close(sent.update["theta"], map_params(lambda g: 0.1 * g, slope), 1e-8)


# --- Ditto ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 4])
def test_ditto_keeps_a_personal_model_over_rounds(batch: int) -> None:
    """Two rounds by plain loops: v starts at theta of the first, goes on from itself after it."""
    steps = GradientSteps(lr=0.1, steps=3, batch=batch)
    strategy = Ditto(inner=steps, adaptation=steps, lam=0.5)
    start = strategy.build(_classification_problem(), seeding.generator(0))
    task = _with_noise(_classification_task(), strategy)
    theta = map_params(lambda value: value + 0.3, start.state.meta["theta"])  # it moved since
    local = joined(task)
    memory, expected = start.memory, theta
    for round in range(2):
        meta = {"theta": map_params(lambda value, by=round: value * (1 - 0.1 * by), theta)}
        memory = strategy.client_update(start.learner, meta, memory, task).memory
        expected = personal(strategy, start, meta, expected, local)
        assert bool(memory["took_part"])
        for name, value in expected.items():
            torch.testing.assert_close(memory[f"v.{name}"], value, rtol=1e-12, atol=1e-13)
    # The pull to theta matters, and so does the way from round to round.
    free = dataclasses.replace(strategy, lam=0.0).client_update(start.learner, meta, memory, task)
    pulled = strategy.client_update(start.learner, meta, memory, task)
    anew = strategy.client_update(start.learner, meta, start.memory, task)
    assert _distance(pulled.memory, meta["theta"]) < _distance(free.memory, meta["theta"])
    assert _distance(anew.memory, expected) > 1e-3


def _distance(memory: Params, point: Params) -> float:
    return float(squared_distance({name: memory[f"v.{name}"] for name in point}, point))


def personal(strategy: Ditto, start, meta, own: Params, batch) -> Params:
    """Return v after proximal descent from ``own``."""
    network = descend(
        network_at(start, own), start, batch, strategy.adaptation, mu=strategy.lam,
        anchor=meta["theta"],
    )  # fmt: skip
    return values_of(network)


# --- APFL -------------------------------------------------------------------------------------


def test_apfl_by_hand(parabola) -> None:
    """On theta^2 / 2 from theta = 1, a = 1/2, v = 3 kept: u = 2.

    w = 1 - 0.1;  v = 3 - 0.1 * 2 / 2 = 2.9;  a = 0.5 - 0.1 * (3 - 1) * 2 = 0.1.
    """
    strategy = APFL(inner=ONCE, mixture=0.5)
    start = strategy.build(parabola.problem, seeding.generator(0))
    one = torch.ones(1, 1, dtype=torch.float64)
    kept = start.memory | {"v.head.weight": 3 * one, "took_part": one[0, 0]}
    update = strategy.client_update(
        start.learner, {"theta": {"head.weight": one}}, kept, parabola.task()
    )
    assert float(update.update["theta"]["head.weight"]) == pytest.approx(0.1, abs=1e-15)
    assert float(update.memory["v.head.weight"]) == pytest.approx(2.9, abs=1e-15)
    assert float(update.memory["a"]) == pytest.approx(0.1, abs=1e-15)
    # A second such round would end below 0.
    again = strategy.client_update(
        start.learner, {"theta": {"head.weight": one}}, kept | {"a": one[0, 0] * 0.2},
        parabola.task(),
    )  # fmt: skip
    assert float(again.memory["a"]) == 0


def test_a_client_of_apfl_that_never_took_part_starts_at_theta(classification) -> None:
    strategy = APFL(inner=STEPS, adaptation=STEPS)
    start, update = updates(strategy, classification)
    shifted = map_params(lambda w: w + 0.3, start.state.meta["theta"])
    none = dataclasses.replace(strategy, adaptation=GradientSteps(steps=0))
    task = classification.task()
    predict = none.adapt(start.learner, {"theta": shifted}, start.memory, task.support)
    assert torch.equal(predict(task.query.x), start.learner.apply(shifted, task.query.x))
    own = none.adapt(start.learner, {"theta": shifted}, update.memory, task.support)
    assert not torch.equal(own(task.query.x), predict(task.query.x))


# --- FedBABU ----------------------------------------------------------------------------------


def test_fedbabu_sends_the_body_and_never_trains_the_head(classification) -> None:
    start, update = updates(FedBABU(inner=STEPS), classification)
    assert list(update.update["theta"]) == ["body.0.weight", "body.0.bias"]
    assert list(start.memory) == ["head.weight", "head.bias"]
    assert torch.equal(flatten(update.memory), flatten(start.memory))
    fast = FedBABU(adaptation=STEPS).adapt(
        start.learner, start.state.meta, start.memory, classification.task().support
    ).args[0]  # fmt: skip
    assert all(not torch.equal(fast[name], start.memory[name]) for name in start.memory)


# --- q-FedAvg ---------------------------------------------------------------------------------


def test_q_fedavg_without_fairness_is_fedavg(classification) -> None:
    start, update = updates(QFedAvg(inner=STEPS, q=0.0), classification)
    known, expected = updates(FedAvg(inner=STEPS), classification)
    after = QFedAvg(inner=STEPS, q=0.0).server_update(start.state, update.update)
    fedavg = FedAvg(inner=STEPS).server_update(known.state, expected.update)
    close(after.meta["theta"], fedavg.meta["theta"])


def test_a_client_with_a_larger_loss_weighs_more_the_larger_q(parabola) -> None:
    """Clients with optima 0 and 3 of theta^2 / 2, theta = 1: losses 0.5 and 2.

    theta is between them where q = 0, and nearer to the one that is worse off with q.
    """
    near, far = parabola.task(), parabola.task()
    far = Task(*(batch._replace(y=batch.y + 3) for batch in far))
    ends = []
    for q in (0.0, 1.0, 4.0):
        strategy = QFedAvg(inner=ONCE, q=q)
        learner, state, _ = strategy.build(parabola.problem, seeding.generator(0))
        for _ in range(200):
            sent = [strategy.client_update(learner, state.meta, {}, task).update
                    for task in (near, far)]  # fmt: skip
            mean = {
                group: map_params(lambda a, b: (a + b) / 2, sent[0][group], sent[1][group])
                for group in sent[0]
            }
            state = strategy.server_update(state, mean)
        ends.append(float(state.meta["theta"]["head.weight"]))
    # The minimum of theta^2(q+1) + (3 - theta)^2(q+1) is 3/2 for every q; from 0 on the way there.
    assert ends == pytest.approx([1.5] * 3, abs=1e-2)
    first = [float(abs(strategy_step(parabola, q, near, far))) for q in (0.0, 1.0, 4.0)]
    assert first[0] < first[1] < first[2]


def strategy_step(parabola, q: float, near: Task, far: Task) -> float:
    """Return (far - near) / (far + near) of the lengths of the two clients' first steps."""
    strategy = QFedAvg(inner=ONCE, q=q)
    learner, _, _ = strategy.build(parabola.problem, seeding.generator(0))
    meta = {"theta": {"head.weight": torch.ones(1, 1, dtype=torch.float64)},
            "h": {"h": torch.ones((), dtype=torch.float64)}}  # fmt: skip
    steps = [
        abs(float(strategy.client_update(learner, meta, {}, task).update["theta"]["head.weight"]))
        for task in (near, far)
    ]
    return (steps[1] - steps[0]) / (steps[1] + steps[0])


# --- SCAFFOLD ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_scaffold_ends_at_the_minimum_of_the_mean_loss_and_fedavg_does_not() -> None:
    """Clients f_i = 1/2 (w - c_i)' A_i (w - c_i): the minimum is (sum A)^-1 sum A c.

    Ten local steps pull FedAvg elsewhere. At SCAFFOLD's fixed point c_i = grad f_i, and c = 0.
    """
    scenario = Quadratic(seed=3)
    problem = dataclasses.replace(scenario.problem(), dtype=torch.float64)
    clients = list(scenario.clients()["train"])
    (group,) = scenario.tasks("train", clients, 1, {})
    parts = [scenario.parameters_of(client) for client in clients]
    stiffness = torch.stack([a for a, _ in parts]).sum(0)
    optimum = torch.linalg.solve(stiffness, torch.stack([a @ c for a, c in parts]).sum(0))
    ends = {}
    for strategy in (Scaffold(inner=GradientSteps(lr=0.1, steps=10)),
                     FedAvg(inner=GradientSteps(lr=0.1, steps=10))):  # fmt: skip
        learner, state, memory = strategy.build(problem, seeding.generator(0))
        memories = map_params(lambda value: torch.stack([value] * len(clients)), memory)
        for _ in range(300):
            reply = vmap(
                lambda task, own, meta=state.meta, s=strategy, net=learner: s.client_update(
                    net, meta, own, task
                )
            )(group.tasks, memories)
            mean = {
                name: map_params(lambda value: value.mean(0), params)
                for name, params in reply.update.items()
            }
            state, memories = strategy.server_update(state, mean), reply.memory
        ends[type(strategy)] = state, memories
    state, memories = ends[Scaffold]
    torch.testing.assert_close(flatten(state.meta["theta"]), optimum, rtol=1e-9, atol=1e-9)
    assert flatten(state.meta["control"]).abs().max() < 1e-9
    for own, (curvature, centre) in zip(flatten(memories, 1), parts, strict=True):
        torch.testing.assert_close(own, curvature @ (optimum - centre), rtol=1e-8, atol=1e-8)
    drifted = flatten(ends[FedAvg][0].meta["theta"])
    assert (drifted - optimum).norm() > 1e-3 * optimum.norm()


def test_scaffold_moves_its_variate_by_the_share_of_clients(classification) -> None:
    start, update = updates(Scaffold(inner=STEPS), classification)
    whole, part = (
        Scaffold(inner=STEPS, participation=share).server_update(start.state, update.update)
        for share in (1.0, 0.25)
    )
    close(map_params(lambda c: 4 * c, part.meta["control"]), whole.meta["control"])
    assert torch.equal(flatten(part.meta["theta"]), flatten(whole.meta["theta"]))
