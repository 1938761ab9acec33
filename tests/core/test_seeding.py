"""Randomness as a function of (seed, purpose, round, client)."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from fedmaml.core import seeding


@pytest.mark.parametrize("draw", [seeding.uniform, seeding.normal])
def test_a_clients_draw_is_the_same_alone_or_among_thousands(draw) -> None:
    key = seeding.key(0, "test")
    together = draw(key, range(3000), 4, 2)
    for client in (0, 1, 1234, 2999):
        assert torch.equal(draw(key, [client], 4, 2)[0], together[client])


def test_a_clients_permutation_is_the_same_alone_or_among_thousands() -> None:
    key = seeding.key(0, "test")
    together = seeding.permutation(key, range(3000), 11)
    assert torch.equal(seeding.permutation(key, [77], 11)[0], together[77])


def test_a_clients_draw_does_not_depend_on_the_order_of_clients() -> None:
    key = seeding.key(0, "test")
    assert torch.equal(seeding.uniform(key, [5, 3], 4), seeding.uniform(key, [3, 5], 4).flip(0))


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    key = seeding.key(0, "test")
    assert torch.equal(seeding.uniform(key, [9], 10)[:, :4], seeding.uniform(key, [9], 4))


@pytest.mark.parametrize(
    ("clients", "count"),
    [(range(1), 20_000), (range(20_000), 1), (range(0, 10**7, 1000), 2)],
    ids=["along-one-client", "across-clients", "across-distant-clients"],
)
def test_uniform_is_uniform(clients: range, count: int) -> None:
    values = seeding.uniform(seeding.key(0, "test"), clients, count).flatten().numpy()
    assert kstest(values, "uniform").pvalue > 0.001  # fails for one key in 1,000; this one is fixed
    assert values.min() > 0
    assert values.max() < 1


def test_uniform_is_uniform_across_rounds() -> None:
    values = [float(seeding.uniform(seeding.key(0, "split", r), [3], 1)) for r in range(5000)]
    assert kstest(values, "uniform").pvalue > 0.001


def test_normal_is_standard_normal() -> None:
    values = seeding.normal(seeding.key(0, "test"), range(200), 100).flatten().numpy()
    assert kstest(values, "norm").pvalue > 0.001


def test_neighbouring_draws_do_not_correlate() -> None:
    values = seeding.uniform(seeding.key(0, "test"), range(2000), 20).numpy()
    # The standard error of a correlation of 38,000 pairs is 1/sqrt(38,000) = 0.005; allow 4 of it.
    along = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    across = np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]
    assert abs(along) < 0.02
    assert abs(across) < 0.02


def test_the_largest_possible_draw_stays_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # The interval is open: with all 64 bits set the draw is the largest there is, still below 1,
    # and its normal quantile is finite.
    monkeypatch.setattr(seeding, "_mix", lambda z: np.full_like(z, 2**64 - 1))
    assert float(seeding.uniform(1, [0], 1)) < 1
    assert np.isfinite(float(seeding.normal(1, [0], 1)))


def test_permutation_is_one() -> None:
    order = seeding.permutation(seeding.key(0, "test"), range(50), 9, 3)
    assert order.shape == (50, 3, 9)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort(-1).values, torch.arange(9).expand(50, 3, 9))


def test_every_first_place_of_a_permutation_is_as_likely() -> None:
    first = seeding.permutation(seeding.key(0, "test"), range(6000), 6)[:, 0]
    # 1,000 of 6,000 expected; standard deviation sqrt(6000 * 1/6 * 5/6) = 29; allow 4 of it.
    assert (first.bincount(minlength=6) - 1000).abs().max() < 116


@pytest.mark.parametrize(
    "other",
    [(1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", "1"), (0, "a"), (0, 1, "a"), ("0", "a", 1)],
    ids=str,
)
def test_key_depends_on_every_part_and_its_type(other) -> None:
    assert seeding.key(*other) != seeding.key(0, "a", 1)


def test_key_has_63_bits_and_never_changes() -> None:
    keys = [seeding.key(0, "test", number) for number in range(1000)]
    assert len(set(keys)) == 1000
    assert all(0 <= key < 2**63 for key in keys)
    # Runs that were published must stay repeatable: SHA-256 of "int:0/str:a", first 8 bytes, >> 1.
    assert seeding.key(0, "a") == 4454251362068937992


def test_generators_of_one_path_draw_the_same() -> None:
    draws = [torch.rand(3, generator=seeding.generator(0, "a")) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(3, generator=seeding.generator(0, "b")))


def test_isolated_leaves_the_global_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    with seeding.isolated(seeding.generator(0, "a")):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)  # whatever the global generator's state is,
    with seeding.isolated(seeding.generator(0, "a")):
        assert torch.equal(torch.rand(3), inside)


def test_isolated_puts_the_global_generator_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="inside"), seeding.isolated(seeding.generator(0, "a")):
        raise ValueError("inside")
    assert torch.equal(torch.get_rng_state(), before)


def test_isolated_seeds_no_generator_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.manual_seed seeds all devices, and only the CPU's generator is put back afterwards.
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with seeding.isolated(seeding.generator(0, "a")):
        torch.rand(3)
    assert seeded == []


def test_draws_leave_the_global_generators_alone() -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    seeding.uniform(1, [0], 3)
    seeding.normal(1, [0], 3)
    seeding.permutation(1, [0], 3)
    seeding.generator(0, "a")
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == before_numpy).all()  # noqa: NPY002


def test_client_numbers_below_zero_are_refused() -> None:
    with pytest.raises(OverflowError):
        seeding.uniform(1, [-1], 3)
