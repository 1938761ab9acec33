"""Compression: the papers' bounds, exact packing, and codes that depend on one client alone."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from fedmaml.core import seeding
from fedmaml.core.compression import Compression, code_bytes
from fedmaml.core.compressors import (
    BUCKET,
    QSGD,
    Compressor,
    Float16,
    TopK,
    from_bytes,
    pack_nibbles,
    to_bytes,
    unpack_nibbles,
)

COMPRESSORS = {
    "float16": Float16(),
    "qsgd-8": QSGD(8),
    "qsgd-4": QSGD(4),
    "top-k": TopK(0.1),
    "top-k of all": TopK(1.0),
}
LENGTHS = (1, 2, 7, BUCKET - 1, BUCKET, BUCKET + 1, 2410)


def vectors(clients: int, entries: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return seeding.normal(seeding.key(3, "vectors", entries), range(clients), entries).to(dtype)


def through(compressor: Compressor, values: Tensor, clients: range | None = None) -> Tensor:
    """Return what arrives of vectors; ``clients`` determine the rounding."""
    numbers = range(len(values)) if clients is None else clients
    draw = partial(seeding.uniform, seeding.key(0, "draw"), numbers, values.shape[1])
    code = compressor.encode(values, draw)
    assert compressor.flaw(code, values.shape[1]) == ""
    return compressor.decode(code, values.shape[1], values.dtype)


# --- top-k ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.5, 1.0])
def test_top_k_is_a_contraction(fraction: float) -> None:
    """|x - C(x)|^2 <= (1 - k/d) |x|^2, with equality where all entries are equal in size."""
    values = vectors(20, 700, torch.float64)
    compressor = TopK(fraction)
    kept = compressor.count(700) / 700
    lost = (values - through(compressor, values)).square().sum(1)
    assert (lost <= (1 - kept) * values.square().sum(1)).all()

    equal = values.sign()
    lost = (equal - through(compressor, equal)).square().sum(1)
    torch.testing.assert_close(lost, (1 - kept) * equal.square().sum(1))


def test_top_k_keeps_the_largest_and_of_equal_ones_the_first() -> None:
    values = torch.tensor([[1.0, -3.0, 0.0, 3.0, -3.0, 2.0]])
    expected = torch.tensor([[0.0, -3.0, 0.0, 3.0, 0.0, 0.0]])
    assert torch.equal(through(TopK(2 / 6), values), expected)


@pytest.mark.parametrize(
    ("fraction", "entries", "count"),
    # 0.1 * 2410 is 241.00000000000003 in float64: rounding is not another entry
    [(0.1, 2410, 241), (0.01, 2410, 25), (1e-6, 2410, 1), (1.0, 7, 7), (0.5, 1, 1)],
)
def test_top_k_counts_entries_upwards(fraction: float, entries: int, count: int) -> None:
    assert TopK(fraction).count(entries) == count


# --- QSGD -------------------------------------------------------------------------------------


def of_every_kind(entries: int) -> Tensor:
    """Vectors whose buckets are dense, sparse, steep, and zero."""
    dense = vectors(1, entries, torch.float64)[0]
    sparse = dense * (torch.arange(entries) % 50 == 0)
    steep = 2.0 ** -(torch.arange(entries, dtype=torch.float64) % 40)
    return torch.stack([dense, sparse, steep, torch.zeros(entries, dtype=torch.float64)])


@pytest.mark.parametrize("bits", [8, 4])
def test_qsgd_is_unbiased(bits: int) -> None:
    """Hoeffding: the mean of N errors in an interval of length w is within t of its mean.

    Where t = w sqrt(ln(2 / p) / 2N) but for a probability p; here w = M / s and p = 1e-9 over all
    entries. Rounding to nearest would err by up to w / 2 = 8 t.
    """
    repeats, entries = 4000, BUCKET + 44
    compressor = QSGD(bits)
    for number, vector in enumerate(of_every_kind(entries)):
        clients = range(number * repeats, (number + 1) * repeats)
        mean = through(compressor, vector.expand(repeats, -1), clients).mean(0)
        tolerance = math.sqrt(math.log(2 * entries / 1e-9) / (2 * repeats)) / compressor.levels
        largest = [part.abs().max().expand(len(part)) for part in vector.split(BUCKET)]
        assert ((mean - vector).abs() <= tolerance * torch.cat(largest) + 1e-15).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_qsgd_error_is_that_of_its_probabilities_and_below_the_papers_bound(bits: int) -> None:
    repeats, compressor = 1000, QSGD(bits)
    levels = compressor.levels
    for number, vector in enumerate(of_every_kind(BUCKET)[:3]):
        clients = range(number * repeats, (number + 1) * repeats)
        sent = through(compressor, vector.expand(repeats, -1), clients)
        errors = (sent - vector).square().sum(1)
        largest = vector.abs().max()
        up = (vector.abs() / largest * levels) % 1
        expected = (largest / levels) ** 2 * (up * (1 - up)).sum()
        standard_error = errors.std() / math.sqrt(repeats)
        assert (errors.mean() - expected).abs() <= 5 * standard_error + 1e-15
        bound = min(BUCKET / levels**2, math.sqrt(BUCKET) / levels) * vector.square().sum()
        assert expected <= bound


def test_qsgd_with_4_bits_is_a_contraction_in_its_buckets_and_not_in_those_of_the_paper() -> None:
    level = torch.linspace(0, 1, 10_001, dtype=torch.float64)

    def worst(bucket: int) -> float:
        lost = (bucket - 1) * level * (1 - level)
        return float((lost / (49 + (bucket - 1) * level**2)).max())

    assert worst(BUCKET) < 0.75
    assert worst(512) > 1
    hard = torch.full((2000, BUCKET), 0.3 / 7, dtype=torch.float64)
    hard[:, 0] = 1
    lost = (through(QSGD(4), hard) - hard).square().sum(1).mean() / hard[0].square().sum()
    assert 0.7 < float(lost) < 0.75  # the bound is met where the formula says so


def test_a_scale_belongs_to_its_bucket() -> None:
    values = torch.cat([torch.full((1, BUCKET), 1e-6), torch.full((1, 3), 1e6)], dim=1)
    assert torch.equal(through(QSGD(4), values), values)


# --- float16 ----------------------------------------------------------------------------------


def test_float16_error_is_half_a_step() -> None:
    sizes = 2.0 ** seeding.uniform(seeding.key(0, "sizes"), [0], 20_000).mul(45).sub(30)
    values = torch.cat([sizes, -sizes], dim=1).clamp(-65519, 65519)
    lost = (through(Float16(), values) - values).abs()
    normal = values.abs() >= 2.0**-14
    assert (lost[normal] <= 2.0**-11 * values[normal].abs()).all()
    assert (lost[~normal] <= 2.0**-25).all()
    assert normal.any()
    assert (~normal).any()
    assert through(Float16(), torch.tensor([[65520.0]])).isinf()


# --- what holds for all -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("entries", LENGTHS)
@pytest.mark.parametrize("name", COMPRESSORS)
def test_bytes_hold_the_code_exactly(name: str, entries: int, dtype: torch.dtype) -> None:
    compressor, values = COMPRESSORS[name], vectors(3, entries, dtype)
    code = compressor.encode(values, partial(seeding.uniform, 5, range(3), entries))
    layout = compressor.layout(entries, dtype)
    assert {part: (v.dtype, v.shape[1]) for part, v in code.items()} == layout
    rows = to_bytes(code)
    assert (rows.dtype, tuple(rows.shape)) == (torch.uint8, (3, code_bytes(layout)))
    again = from_bytes(rows, layout)
    assert all(torch.equal(again[part], code[part]) for part in code)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_clients_code_does_not_depend_on_who_shares_its_computation(name: str) -> None:
    values = vectors(9, 2410)
    together = through(COMPRESSORS[name], values)
    alone = [
        through(COMPRESSORS[name], values[i : i + 1], range(i, i + 1)) for i in range(len(values))
    ]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", COMPRESSORS)
def test_zero_stays_zero(name: str) -> None:
    values = torch.zeros(2, 300)
    assert torch.equal(through(COMPRESSORS[name], values), values)


def test_all_entries_of_top_k_are_the_vector_itself() -> None:
    values = vectors(4, 50)
    assert torch.equal(through(TopK(1.0), values), values)


@pytest.mark.parametrize("count", [1, 2, 15, 225, 226])
def test_nibbles_are_packed_exactly(count: int) -> None:
    pairs = torch.cartesian_prod(torch.arange(-7, 8), torch.arange(-7, 8)).flatten()
    levels = pairs[:count].to(torch.int8)[None]
    packed = pack_nibbles(levels)
    assert packed.shape[1] == math.ceil(count / 2)
    assert torch.equal(unpack_nibbles(packed)[:, :count], levels)


@pytest.mark.parametrize(
    ("method", "each"),
    # 2410 entries: 10 scales of 4 bytes; 241 entries of 8 bytes
    [
        ("none", 4 * 2410),
        ("float16", 2 * 2410),
        ("qsgd-8", 2410 + 40),
        ("qsgd-4", 1205 + 40),
        ("top-k", 241 * 8),
    ],
)
def test_payload_is_what_the_formula_says(method: str, each: int) -> None:
    meta = {"theta": {"a": torch.zeros(241, 7), "b": torch.zeros(723)}}
    compression = Compression(method=method, fraction=0.1)  # type: ignore[arg-type]
    assert compression.payload_bytes(meta) == each


@pytest.mark.parametrize("method", ["none", "float16", "qsgd-8", "qsgd-4", "top-k"])
def test_feedback_is_on_where_the_method_needs_it_unless_a_setting_says_otherwise(
    method: str,
) -> None:
    meta = {"theta": {"a": torch.ones(2, 3)}, "alpha": {"a": torch.ones(2, 3)}}

    def groups(**settings: object) -> list[str]:
        return list(Compression(method=method, **settings).first_residual(meta))  # type: ignore[arg-type]

    assert groups() == (["theta", "alpha"] if method == "top-k" else [])
    assert groups(error_feedback=True) == ([] if method == "none" else ["theta", "alpha"])
    assert groups(error_feedback=False) == []
