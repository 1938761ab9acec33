"""Parameter trees: laying out flat and back, and their fingerprint."""

import hashlib

import pytest
import torch

from fedmaml.core import params
from fedmaml.core.params import flatten, layout_of, sha256, unflatten


@pytest.fixture
def tree() -> params.Params:
    return {
        "weight": torch.arange(6.0).reshape(2, 3),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 2),
        "bias": torch.tensor([8.0, 9.0]),
    }


def test_flatten_lays_entries_out_in_the_order_of_the_tree(tree: params.Params) -> None:
    # weight 0..5 row by row, then the scalar 7, nothing of `empty`, then 8, 9.
    assert flatten(tree).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_unflatten_undoes_flatten(tree: params.Params) -> None:
    back = unflatten(flatten(tree), layout_of(tree))
    assert list(back) == list(tree)
    for name, value in tree.items():
        assert back[name].shape == value.shape
        assert torch.equal(back[name], value)


@pytest.mark.parametrize("batch", [(4,), (2, 3)])
def test_batch_axes_stay_in_front(tree: params.Params, batch: tuple[int, ...]) -> None:
    batched = {name: value + torch.rand(*batch, *value.shape) for name, value in tree.items()}
    flat = flatten(batched, batch_axes=len(batch))
    assert flat.shape == (*batch, 9)
    back = unflatten(flat, layout_of(tree))
    for name, value in batched.items():
        assert torch.equal(back[name], value)


def test_every_row_of_a_batch_is_the_single_tree_flattened(tree: params.Params) -> None:
    batched = {name: torch.stack([value, 2 * value]) for name, value in tree.items()}
    assert torch.equal(flatten(batched, batch_axes=1)[1], 2 * flatten(tree))


def test_flatten_and_unflatten_pass_vmap(tree: params.Params) -> None:
    batched = {name: torch.stack([value, 2 * value]) for name, value in tree.items()}
    flat = torch.func.vmap(flatten)(batched)
    assert torch.equal(flat, flatten(batched, batch_axes=1))


def test_norms_and_differences_by_hand() -> None:
    left = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
    right = {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor(1.0)}
    assert params.squared_norm(left) == 14  # 1 + 4 + 9
    assert params.squared_distance(left, right) == 9  # 1 + 4 + 4
    assert params.subtract(left, right)["a"].tolist() == [1, -2]
    assert params.squared_norm({}) == 0


def test_squared_norm_keeps_double_precision() -> None:
    value = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    assert params.squared_norm({"a": value}).dtype == torch.float64


def test_count_and_zeros_have_the_shape_of_the_tree(tree: params.Params) -> None:
    meta = {"theta": tree, "alpha": {"x": torch.ones(2, dtype=torch.float64)}}
    assert params.count_entries(meta) == 9 + 2
    zeros = params.zeros_like(meta)
    assert zeros["alpha"]["x"].dtype == torch.float64
    assert layout_of(zeros["theta"]) == layout_of(tree)
    assert not flatten(zeros["theta"]).any()


def test_sha256_does_not_depend_on_dictionary_order() -> None:
    a, b = torch.tensor([1.0]), torch.tensor([2.0])
    one = {"theta": {"a": a, "b": b}, "alpha": {"a": a}}
    other = {"alpha": {"a": a}, "theta": {"b": b, "a": a}}
    assert sha256(one) == sha256(other)


def test_sha256_is_what_its_docstring_says() -> None:
    # name|dtype|shape| and then the little-endian bytes of 1.0 in float32, 00 00 80 3f.
    expected = hashlib.sha256(b"theta/a|float32|(1,)|\x00\x00\x80\x3f").hexdigest()
    assert sha256({"theta": {"a": torch.tensor([1.0])}}) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"theta": {"b": torch.zeros(2, 2)}},
        {"alpha": {"a": torch.zeros(2, 2)}},
        {"theta": {"a": torch.zeros(2, 2, dtype=torch.float64)}},
        {"theta": {"a": torch.zeros(2, 2, dtype=torch.int32)}},
        {"theta": {"a": torch.zeros(4)}},
        {"theta": {"a": torch.tensor([[0.0, 0.0], [0.0, 1e-30]])}},
        {"theta": {"a": torch.zeros(2, 2)}, "alpha": {"a": torch.zeros(2, 2)}},
    ],
    ids=["name", "group", "dtype", "integer", "shape", "value", "group-added"],
)
def test_sha256_changes_with(other: params.MetaParams) -> None:
    assert sha256(other) != sha256({"theta": {"a": torch.zeros(2, 2)}})


def test_sha256_does_not_depend_on_memory_layout() -> None:
    value = torch.arange(6.0).reshape(2, 3)
    transposed = value.T.contiguous().T
    assert not transposed.is_contiguous()
    assert sha256({"theta": {"a": transposed}}) == sha256({"theta": {"a": value}})
