"""Soft actor-critic: its rows, its loss by a plain loop, and what each part learns from."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.func import functional_call, vmap

from fedmaml.core import seeding
from fedmaml.core.replay import Recalls
from fedmaml.simulations.environments.actor_critic import ActorCritic, actor_critic_loss
from fedmaml.simulations.environments.navigation import (
    HalfCircle,
    goals_on_half_circle,
    noticed,
)

HORIZON, RADIUS, TEMPERATURE, DISCOUNT = 12, 0.9, 0.3, 0.8


@pytest.fixture
def network() -> ActorCritic:
    """A small one in double precision, whose slow critics differ from its critics."""
    with seeding.isolated(seeding.generator(0)):
        known = partial(noticed, radius=RADIUS)
        return ActorCritic(HalfCircle(horizon=HORIZON), 2, 2, 5, TEMPERATURE, known).double()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """Three episodes with different goals."""
    angle = 3 * seeding.uniform(seeding.key(1), [0], 3)[0]
    noise = seeding.normal(seeding.key(2), [0], 3, HORIZON, 2)[0]
    return {"goal": goals_on_half_circle(angle), "noise": noise}


def critic(part, number: int, x: Tensor) -> Tensor:
    """Return Q of one critic, written out."""
    width = part.weight2.shape[-1]
    own = slice(number * width, (number + 1) * width)
    hidden = (x @ part.weight1[:, own] + part.bias1[own]).clamp(min=0)
    hidden = (hidden @ part.weight2[number] + part.bias2[number, 0]).clamp(min=0)
    return (hidden @ part.weight3[number] + part.bias3[number, 0])[..., 0]


def test_it_recalls(network: ActorCritic, inputs: dict[str, Tensor]) -> None:
    assert isinstance(network, Recalls)
    names = dict(network.named_parameters())
    assert {*network.latent_enters} <= names.keys()
    copies = [name.removeprefix("slow.") for name in names if name.startswith("slow.")]
    assert len(copies) == 6
    for name in copies:
        assert names[name].shape == names["slow." + name].shape
    assert network(inputs)["played"].shape == (3, network.played)


def test_what_it_saw_is_a_row_for_each_step(
    network: ActorCritic, inputs: dict[str, Tensor]
) -> None:
    """s' = s + .1 move; the reward that is noticed is 1 - distance within the radius, or 0."""
    played = network(inputs)
    seen = network.context_of(played["played"])
    assert seen.shape == (3, HORIZON, network.context)
    before, move, reward, after = seen.split([2, 2, 1, 2], -1)
    torch.testing.assert_close(after, before + 0.1 * move)
    assert torch.equal(before[:, 1:], after[:, :-1])
    assert torch.equal(after, played["states"])
    distance = (after - inputs["goal"][:, None]).norm(dim=-1)
    expected = torch.where(distance < RADIUS, 1 - distance, 0.0)
    torch.testing.assert_close(reward[..., 0], expected)
    assert 0 < int((reward > 0).sum()) < reward.numel()
    torch.testing.assert_close(played["rewards"], -distance)


def test_the_loss_is_that_of_a_plain_loop(network: ActorCritic, inputs: dict[str, Tensor]) -> None:
    played = network(inputs)
    rows, places, rewards = played["played"], played["states"], played["rewards"]
    losses = actor_critic_loss(network({"played": rows}), rows, discount=DISCOUNT)
    moves = network.context_of(rows)[..., 2:4]
    for row in range(3):
        other, total = inputs["noise"][row - 1], torch.zeros((), dtype=torch.float64)
        for step in range(HORIZON):
            before = places[row, step - 1] if step else torch.zeros(2, dtype=torch.float64)
            values = []
            for place, noise, part in (
                (places[row, step], other[(step + 1) % HORIZON], network.slow["critics"]),
                (before, other[step], network.critics),
            ):
                mean, log_deviation = network.actor(place).chunk(2)
                policy = TransformedDistribution(Normal(mean, log_deviation.exp()), TanhTransform())
                move = torch.tanh(mean + log_deviation.exp() * noise)
                x = torch.cat([place, move])
                least = min(critic(part, 0, x), critic(part, 1, x))
                values.append(least - TEMPERATURE * policy.log_prob(move).sum())
            target = rewards[row, step] + DISCOUNT * values[0]
            done = torch.cat([before, moves[row, step]])
            total += sum((critic(network.critics, n, done) - target) ** 2 for n in range(2))
            total -= values[1]
        torch.testing.assert_close(losses[row], total / HORIZON, rtol=1e-10, atol=1e-10)


def test_critics_learn_from_errors_the_actor_from_values_and_copies_from_nothing(
    network: ActorCritic, inputs: dict[str, Tensor]
) -> None:
    rows = network(inputs)["played"]
    assert not rows.requires_grad
    found = network({"played": rows})
    own = dict(network.named_parameters())

    def moved_by(value: Tensor) -> set[str]:
        slopes = torch.autograd.grad(
            value.sum(), [*own.values()], allow_unused=True, retain_graph=True
        )
        return {
            name.split(".")[0]
            for name, slope in zip(own, slopes, strict=True)
            if slope is not None and bool(slope.abs().sum() > 0)
        }

    assert moved_by(found["q"]) == {"critics"}
    assert moved_by(found["gain"]) == {"actor"}
    assert not found["after"].requires_grad
    assert moved_by(actor_critic_loss(found, rows)) == {"actor", "critics"}


def test_the_actors_gradient_is_that_of_the_value_at_constant_critics(
    network: ActorCritic, inputs: dict[str, Tensor]
) -> None:
    """Central differences of the mean value, whose critics do not change with the actor."""
    rows, name = network(inputs)["played"], "actor.4.bias"
    own = {key: value.detach() for key, value in network.named_parameters()}

    def value(entry: Tensor) -> Tensor:
        moved = own[name].index_put((torch.tensor([1]),), entry)
        return functional_call(network, own | {name: moved}, ({"played": rows},))["gain"].sum()

    at = own[name][1]
    (slope,) = torch.autograd.grad(value(at.requires_grad_()), at)
    at = at.detach()
    ends = [value(at + step) for step in (1e-6, -1e-6)]
    assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert abs(float(slope)) > 1e-6


def test_many_clients_are_one_by_one(network: ActorCritic) -> None:
    goal = goals_on_half_circle(3 * seeding.uniform(seeding.key(3), range(4), 2))
    noise = seeding.normal(seeding.key(4), range(4), 2, HORIZON, 2)
    own = {name: value.detach() for name, value in network.named_parameters()}

    def loss(goal: Tensor, noise: Tensor) -> Tensor:
        rows = functional_call(network, own, ({"goal": goal, "noise": noise},))["played"]
        return actor_critic_loss(functional_call(network, own, ({"played": rows},)), rows)

    together = vmap(loss)(goal, noise)
    alone = torch.stack([loss(*pair) for pair in zip(goal, noise, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
