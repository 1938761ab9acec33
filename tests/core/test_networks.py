"""Networks give under vmap, with parameters of each client's own, what a loop gives."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from fedmaml.core import seeding
from fedmaml.core.networks import MLP, Conv4, LinearModel
from fedmaml.core.params import map_params

CLIENTS = 3

NETWORKS = {
    "mlp": (lambda: MLP((5, 4, 3)), (5,)),
    "mlp-tanh": (lambda: MLP((5, 4, 4, 3), torch.tanh), (5,)),
    "mlp-without-hidden-layer": (lambda: MLP((5, 3)), (5,)),
    "linear": (lambda: LinearModel(5, 3), (5,)),
    "conv4-group": (lambda: Conv4(1, 16, 3, filters=4, norm="group"), (1, 16, 16)),
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
