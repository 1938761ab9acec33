"""Trees as Flower arrays: every value keeps its type, and one type is one array."""

import json

import pytest
import torch
from flwr.app import Context, RecordDict

from fedmaml.client.memory import load_memories, save_memories
from fedmaml.core.requests import Used
from fedmaml.messages.arrays import pack, unpack

LARGE = 2**24 + 1  # the first whole number that float32 does not hold
MIXED = {
    "head": torch.tensor([[0.1, -2.5]]),
    "steps": torch.tensor(LARGE),
    "mean": torch.tensor([1 / 3, 2**-40], dtype=torch.float64),
    "seen": torch.tensor([True, False, True]),
    "ids": torch.tensor([[2**62, -1]]),
}


def same(left, right) -> bool:
    """Tell whether two trees have the same names in the same order, types, shapes and values."""
    return list(left) == list(right) and all(
        value.dtype == right[name].dtype and torch.equal(value, right[name])
        for name, value in left.items()
    )


def test_a_group_of_several_types_comes_back_as_it_was() -> None:
    arrays, layouts = pack({"memory": MIXED, "alone": {"w": torch.ones(2)}})
    assert set(arrays) == {
        "memory/float32", "memory/int64", "memory/float64", "memory/bool", "alone",
    }  # fmt: skip
    back = unpack(arrays, layouts)
    assert same(back["memory"], MIXED)
    assert same(back["alone"], {"w": torch.ones(2)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_a_group_of_one_type_is_one_array_without_a_word_of_its_type(dtype: torch.dtype) -> None:
    params = {"w": torch.ones(2, 3, dtype=dtype), "b": torch.zeros((), dtype=dtype)}
    arrays, layouts = pack({"theta": params})
    assert list(arrays) == ["theta"]
    assert arrays["theta"].shape == (7,)
    assert layouts["theta"] == json.dumps([["w", [2, 3]], ["b", []]])
    assert same(unpack(arrays, layouts)["theta"], params)


def test_an_empty_group_needs_no_array() -> None:
    arrays, layouts = pack({"theta": {}})
    assert not arrays
    assert unpack(arrays, layouts) == {"theta": {}}


def test_memories_of_several_types_survive_in_a_nodes_context() -> None:
    context = Context(1, 2, {}, RecordDict(), {})
    memories = {3: MIXED, 8: MIXED | {"steps": torch.tensor(-LARGE)}}
    used = dict.fromkeys(memories, Used(1, "base"))
    save_memories(context, memories, Used(1, "base"))
    initial = {name: torch.zeros_like(value) for name, value in MIXED.items()}
    loaded = load_memories(context, [3, 5, 8], initial, used)
    assert same(loaded[3], memories[3])
    assert same(loaded[5], initial)
    assert same(loaded[8], memories[8])
    assert int(loaded[8]["steps"]) == -LARGE
