"""Networks give under vmap, with parameters of each client's own, what a loop gives."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedmaml.core import seeding
from fedmaml.core.networks import GRU, MLP, Conv4, LinearModel, MultiheadAttention
from fedmaml.core.params import map_params

CLIENTS = 3


class Reader(nn.Module):
    """Reads a sequence by `GRU`, and looks back by `MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = GRU(3, 6)
        self.attention = MultiheadAttention(6, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = self.cell(x)
        return self.head(self.attention(states[:, -1:], states, states)[:, 0])


NETWORKS = {
    "mlp": (lambda: MLP((5, 4, 3)), (5,)),
    "mlp-tanh": (lambda: MLP((5, 4, 4, 3), torch.tanh), (5,)),
    "mlp-without-hidden-layer": (lambda: MLP((5, 3)), (5,)),
    "linear": (lambda: LinearModel(5, 3), (5,)),
    "conv4-group": (lambda: Conv4(1, 16, 3, filters=4, norm="group"), (1, 16, 16)),
    "recurrent-with-attention": (Reader, (5, 3)),
    "conv4-batch": (lambda: Conv4(2, 16, 3, filters=4, norm="batch"), (2, 16, 16)),
}


def built(name: str):
    make, shape = NETWORKS[name]
    with seeding.isolated(seeding.generator(0, name)):
        network = make().double()
        stacked = {
            key: value + 0.3 * torch.randn(CLIENTS, *value.shape, dtype=torch.float64)
            for key, value in network.named_parameters()
        }
        x = torch.randn(CLIENTS, 4, *shape, dtype=torch.float64)
    return network, map_params(torch.Tensor.detach, stacked), x


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_under_vmap_equal_a_loop(name: str) -> None:
    network, stacked, x = built(name)
    batched = vmap(lambda params, x: functional_call(network, params, (x,)))(stacked, x)
    for client in range(CLIENTS):
        params = map_params(lambda value, i=client: value[i], stacked)
        single = functional_call(network, params, (x[client],))
        assert single.shape == (4, 3)
        torch.testing.assert_close(batched[client], single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_gradients_under_vmap_equal_a_loop(name: str) -> None:
    network, stacked, x = built(name)

    def loss(params, x):
        return functional_call(network, params, (x,)).square().mean()

    def after_one_step(params, x):
        slope = grad(loss)(params, x)
        return loss(map_params(lambda w, g: w - 0.1 * g, params, slope), x)

    batched = vmap(grad(after_one_step))(stacked, x)
    for client in range(CLIENTS):
        params = map_params(lambda value, i=client: value[i], stacked)
        single = grad(after_one_step)(params, x[client])
        for key, value in single.items():
            torch.testing.assert_close(batched[key][client], value, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_layer_is_called_head(name: str) -> None:
    network, _, _ = built(name)
    assert list(dict(network.named_parameters()))[-1].startswith("head.")


def test_hidden_layers_are_drawn_as_he_and_the_head_smaller() -> None:
    with seeding.isolated(seeding.generator(0)):
        network = MLP((400, 300, 100), head_gain=0.5)
    # N(0, 2/400) and N(0, 0.25/300); 120,000 and 30,000 draws give the scale to 1 %.
    assert float(network.body[0].weight.detach().std()) == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert float(network.head.weight.detach().std()) == pytest.approx(0.5 / 300**0.5, rel=0.02)
    assert not network.head.bias.any()


def test_group_norm_keeps_examples_apart_and_batch_norm_does_not() -> None:
    for name, apart in (("conv4-group", True), ("conv4-batch", False)):
        network, _, x = built(name)
        together, alone = network(x[0])[:2], network(x[0][:2])
        assert torch.allclose(together, alone, atol=1e-12) is apart


@pytest.mark.parametrize("size", [16, 28, 31, 32])
def test_conv4_takes_images_of_any_size_from_16(size: int) -> None:
    assert Conv4(1, size, 3, filters=4)(torch.zeros(2, 1, size, size)).shape == (2, 3)


# --- recurrent cell and attention -----------------------------------------------------------------


def alike(ours: nn.Module, theirs: nn.Module) -> None:
    """Give PyTorch's module the parameters of ours, and test that ours begins as PyTorch's does."""
    names = {name: value.shape for name, value in ours.state_dict().items()}
    assert names == {name: value.shape for name, value in theirs.state_dict().items()}
    for name, value in theirs.state_dict().items():
        own = ours.state_dict()[name]
        assert float(own.std()) == pytest.approx(float(value.std()), rel=0.15)
        assert float(own.abs().max()) == pytest.approx(float(value.abs().max()), rel=0.15)
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("started", [False, True])
def test_gru_equals_that_of_pytorch_in_value_and_gradient(started: bool) -> None:
    with seeding.isolated(seeding.generator(0)):
        ours, theirs = GRU(4, 100).double(), nn.GRU(4, 100, batch_first=True).double()
        x = torch.randn(3, 7, 4, dtype=torch.float64)
        start = torch.randn(3, 100, dtype=torch.float64) if started else None
    alike(ours, theirs)
    expected, _ = theirs(x, None if start is None else start[None])
    found = ours(x, start)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    slopes = torch.autograd.grad(found.square().sum(), list(ours.parameters()))
    wanted = torch.autograd.grad(expected.square().sum(), list(theirs.parameters()))
    for own, slope in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(own, slope, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("masks", [(), ("key_padding_mask",), ("key_padding_mask", "attn_mask")])
def test_attention_equals_that_of_pytorch_in_value_and_gradient(masks: tuple[str, ...]) -> None:
    with seeding.isolated(seeding.generator(0)):
        ours = MultiheadAttention(16, 4).double()
        theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
        query, key, value = (torch.randn(3, rows, 16, dtype=torch.float64) for rows in (5, 6, 6))
    alike(ours, theirs)
    of_name = {
        "key_padding_mask": torch.arange(6) >= torch.tensor([[6], [4], [2]]),
        "attn_mask": torch.ones(5, 6, dtype=torch.bool).triu(2),
    }
    chosen = {name: of_name[name] for name in masks}
    expected, _ = theirs(query, key, value, need_weights=False, **chosen)
    found = ours(query, key, value, **chosen)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    slopes = torch.autograd.grad(found.square().sum(), list(ours.parameters()))
    names = dict(theirs.named_parameters())
    wanted = torch.autograd.grad(expected.square().sum(), list(names.values()))
    by_name = dict(zip(names, wanted, strict=True))
    for (name, _), slope in zip(ours.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(slope, by_name[name], rtol=1e-11, atol=1e-12)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        MultiheadAttention(16, 3)
