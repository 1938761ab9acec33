"""Exact sums: the same bits in any order and any grouping."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmaml import native
from fedmaml.core import aggregation, seeding
from fedmaml.core.aggregation import (
    LIMIT,
    MAX_TERMS,
    SPACINGS,
    ExactSum,
    add_to_limbs,
    empty_sum,
    exact_sum,
    in_range,
)

relaxed = settings(deadline=None, max_examples=60, database=None, derandomize=True)

entries = st.one_of(
    st.floats(-1e3, 1e3),
    st.floats(-(2.0**34), 2.0**34),  # large
    st.floats(-(2.0**-50), 2.0**-50),  # small
    st.integers(-(2**62), 2**62).map(lambda n: n * 2.0**-60),  # on and beside the last grid
    st.integers(-64, 64).map(lambda n: (n + 0.5) * 2.0**5),  # ties of the first cut
)


@st.composite
def summands(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw vectors ``(clients, 3)`` and weights whose products are below LIMIT."""
    clients = draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(entries, min_size=3, max_size=3), min_size=clients,
                         max_size=clients))  # fmt: skip
    weights = draw(st.lists(st.integers(1, 1000), min_size=clients, max_size=clients))
    vectors = torch.tensor(rows, dtype=torch.float64)
    weight = torch.tensor(weights, dtype=torch.float64)
    scale = torch.where(in_range(vectors, weight), 1.0, 2.0**-11)  # 1000 < 2^10
    return vectors * scale[:, None], weight


def same_bits(left: ExactSum, right: ExactSum) -> bool:
    return (
        left.limbs.numpy().tobytes() == right.limbs.numpy().tobytes()
        and left.mean().numpy().tobytes() == right.mean().numpy().tobytes()
        and left.weight == right.weight
        and left.terms == right.terms
    )


@relaxed
@given(summands(), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits(data, random) -> None:
    vectors, weights = data
    order = list(range(len(vectors)))
    random.shuffle(order)
    assert same_bits(exact_sum(vectors, weights), exact_sum(vectors[order], weights[order]))


@relaxed
@given(summands(), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_any_grouping_gives_the_same_bits(data, groups: list[int]) -> None:
    vectors, weights = data
    whole = exact_sum(vectors, weights)
    member = torch.tensor(groups[: len(vectors)])
    total = empty_sum(3)
    for group in (2, 0, 3, 1):
        total = total + exact_sum(vectors[member == group], weights[member == group])
    assert same_bits(total, whole)
    one_by_one = empty_sum(3)
    for vector, weight in zip(vectors, weights, strict=True):
        one_by_one = one_by_one + exact_sum(vector[None], weight[None])
    assert same_bits(one_by_one, whole)


@relaxed
@given(summands())
def test_the_sum_is_exact_but_for_what_lies_below_the_last_grid(data) -> None:
    vectors, weights = data
    total = exact_sum(vectors, weights)
    products = vectors * weights[:, None]  # one rounding, of each product by itself
    for column in range(3):
        exact = sum(Fraction(float(value)) for value in products[:, column])
        ours = sum(Fraction(float(limb)) for limb in total.limbs[:, column])
        assert abs(ours - exact) <= len(vectors) * Fraction(1, 2**60)


@relaxed
@given(summands())
def test_limbs_lie_on_their_grids_and_within_their_bound(data) -> None:
    # |limb| <= terms * 2^31 steps; 2^21 terms then stay below 2^53, where float64 is exact.
    total = exact_sum(*data)
    for limb, spacing in zip(total.limbs, SPACINGS, strict=True):
        steps = limb / spacing
        assert torch.equal(steps, steps.round())
        assert steps.abs().max() <= total.terms * 2**31


def test_mean_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.5], [3.0, -0.5]], dtype=torch.float64)
    total = exact_sum(vectors, torch.tensor([1.0, 3.0], dtype=torch.float64))
    # (1*1 + 3*3) / 4 = 2.5 and (0.5 - 1.5) / 4 = -0.25
    assert total.mean().tolist() == [2.5, -0.25]
    assert total.weight == 4
    assert total.terms == 2


def test_cancellation_loses_nothing() -> None:
    # In float64 (1e10 + 1e-6) - 1e10 is 9.5e-07; the limbs keep 1e-6 to 2^-60.
    vectors = torch.tensor([[1e10], [1e-6], [-1e10]], dtype=torch.float64)
    total = exact_sum(vectors, torch.ones(3, dtype=torch.float64))
    assert abs(float(total.limbs.sum()) - 1e-6) <= 3 * 2.0**-60


def test_single_precision_vectors_are_summed_in_double() -> None:
    vectors = torch.full((10, 1), 0.1, dtype=torch.float32)
    total = exact_sum(vectors, torch.ones(10, dtype=torch.float64))
    assert total.limbs.dtype == torch.float64
    assert float(total.mean()) == float(torch.tensor(0.1, dtype=torch.float32).double())


def test_inputs_are_not_changed() -> None:
    vectors, weights = torch.rand(4, 3, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    before = vectors.clone()
    exact_sum(vectors, weights)
    assert torch.equal(vectors, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), LIMIT, -2 * LIMIT])
def test_what_cannot_be_summed_is_out_of_range(bad: float) -> None:
    vectors = torch.tensor([[1.0, 2.0], [1.0, bad]], dtype=torch.float64)
    assert in_range(vectors, torch.ones(2, dtype=torch.float64)).tolist() == [True, False]


def test_the_range_holds_for_the_product_with_the_weight() -> None:
    vectors = torch.tensor([[LIMIT / 4]], dtype=torch.float64)
    weights = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
    assert [bool(in_range(vectors, weight)) for weight in weights] == [True, False]


def test_large_single_precision_does_not_overflow_in_the_range_check() -> None:
    vectors = torch.tensor([[3e38]], dtype=torch.float32)
    assert not in_range(vectors, torch.tensor([1e9], dtype=torch.float64))


def test_the_largest_number_in_range_is_summed_exactly() -> None:
    largest = torch.tensor([[LIMIT * (1 - 2.0**-53)]], dtype=torch.float64)
    assert in_range(largest, torch.ones(1, dtype=torch.float64))
    total = exact_sum(largest, torch.ones(1, dtype=torch.float64))
    assert total.limbs.sum() == largest[0, 0]


def test_more_terms_than_stay_exact_are_refused() -> None:
    limbs = torch.zeros(3, 1, dtype=torch.float64)
    full = ExactSum(limbs, 1.0, MAX_TERMS)
    assert (full + empty_sum(1)).terms == MAX_TERMS
    with pytest.raises(OverflowError, match="2097153 clients is past the 2097152"):
        full + ExactSum(limbs, 1.0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 1), (3, 33), (50, 515), (1, 0)])
def test_kernel_and_pytorch_cut_numbers_alike(shape: tuple[int, int], dtype: torch.dtype) -> None:
    if reason := native.missing():
        pytest.skip(reason)
    rng = seeding.generator(0, "kernel")
    spread = torch.exp(6 * torch.randn(shape, generator=rng, dtype=dtype))
    vectors = torch.randn(shape, generator=rng, dtype=dtype) * spread
    weights = torch.randint(1, 99, shape[:1], generator=rng).to(torch.float64)
    expected = torch.zeros(3, shape[1], dtype=torch.float64)
    aggregation._add_limbs(vectors, weights, expected)
    assert torch.equal(exact_sum(vectors, weights).limbs, expected)


@pytest.mark.parametrize("without_kernels", [False, True])
def test_columns_of_a_sum_can_be_added_to(
    without_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without_kernels:
        monkeypatch.setattr(native, "missing", lambda: "no kernels")
    vectors = torch.randn(3, 70, generator=seeding.generator(0, "columns"))
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    total = empty_sum(100)
    for part in (slice(0, 33), slice(33, 70)):
        add_to_limbs(total.limbs[:, part.start + 20 : part.stop + 20], vectors[:, part], weights)
    assert torch.equal(total.limbs[:, 20:90], exact_sum(vectors, weights).limbs)
    assert not total.limbs[:, :20].any()
    assert not total.limbs[:, 90:].any()


def test_kernel_and_pytorch_take_the_same_mean() -> None:
    if reason := native.missing():
        pytest.skip(reason)
    limbs = torch.randn(3, 1001, generator=seeding.generator(0, "mean"), dtype=torch.float64)
    mean = ExactSum(limbs, 7.0, 3).mean()
    assert torch.equal(mean, (limbs[2] + limbs[1] + limbs[0]) / 7.0)


@pytest.mark.parametrize("without_kernels", [False, True])
def test_each_of_the_three_limbs_counts(
    without_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without_kernels:
        monkeypatch.setattr(native, "missing", lambda: "no kernels")
    coarse, middle, fine = 3 * 2.0**5, 5 * 2.0**-27, 7 * 2.0**-59  # one multiple of each grid
    vectors = torch.tensor([[coarse, 0], [middle, middle], [fine, fine]], dtype=torch.float64)
    weights = torch.tensor([1, 1, 2], dtype=torch.float64)
    total = exact_sum(vectors, weights)
    assert total.limbs.tolist() == [[coarse, 0], [middle, middle], [2 * fine, 2 * fine]]
    # Sum of weights 4. The second is exact in float64; of the first, fine is below its last digit.
    assert total.mean().tolist() == [coarse / 4 + middle / 4, middle / 4 + fine / 2]
    assert exact_sum(vectors[2:], weights[2:]).mean().tolist() == [fine, fine]
