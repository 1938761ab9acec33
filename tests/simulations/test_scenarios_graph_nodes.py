"""Graph nodes: the network on graphs that are known, names by graph, communities of papers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedmaml.core.errors import DataError
from fedmaml.core.tasks import Batch
from fedmaml.simulations.datasets import planetoid
from fedmaml.simulations.scenarios import GraphNodes
from fedmaml.simulations.systems import graphs


@pytest.fixture
def graph() -> tuple[dict[str, Tensor], Tensor]:
    """A random graph of nine nodes, the last of them alone, and its edges."""
    draws = torch.Generator().manual_seed(3)
    edges = (torch.rand(8, 8, generator=draws).triu(1) > 0.7).nonzero()
    nodes = torch.randn(9, 4, generator=draws, dtype=torch.float64)
    return {"nodes": nodes[None], "near": graphs.near(edges, 9)[None]}, edges


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return graphs.GCN(4, 5, 3).double()


def test_rows_of_a_hat_are_those_of_the_formula() -> None:
    # Node 0 - 1 - 2: degrees with themselves 2, 3, 2.
    expected = torch.tensor(
        [[1 / 2, 6**-0.5, 0], [6**-0.5, 1 / 3, 6**-0.5], [0, 6**-0.5, 1 / 2]], dtype=torch.float64
    )
    torch.testing.assert_close(graphs.near(torch.tensor([[0, 1], [1, 2]]), 3), expected)


def test_permuted_nodes_have_permuted_outputs(graph, network) -> None:
    x, edges = graph
    order = torch.randperm(9)
    place = order.argsort()
    moved = {"nodes": x["nodes"][:, order], "near": graphs.near(place[edges], 9)[None]}
    torch.testing.assert_close(network(moved), network(x)[:, order], rtol=1e-9, atol=1e-9)


def test_a_graph_without_edges_is_a_plain_network(graph, network) -> None:
    x, _ = graph
    alone = {
        "nodes": x["nodes"],
        "near": graphs.near(torch.empty(0, 2, dtype=torch.int64), 9)[None],
    }
    plain = network.head(torch.relu(network.body(x["nodes"])))
    torch.testing.assert_close(network(alone), plain)
    torch.testing.assert_close(network(x)[:, 8], plain[:, 8])  # the ninth node has no edges


def test_sums_over_edges_are_the_dense_product(graph, network) -> None:
    x, edges = graph
    ends = torch.cat([edges, edges.flip(1), torch.arange(9)[:, None].expand(-1, 2)])
    degree = torch.zeros(9, dtype=torch.float64).index_add(
        0, ends[:, 1], torch.ones(len(ends)).double()
    )

    def spread(values: Tensor) -> Tensor:
        weight = (degree[ends[:, 0]] * degree[ends[:, 1]]).rsqrt()[:, None]
        return torch.zeros_like(values).index_add(0, ends[:, 1], weight * values[ends[:, 0]])

    hidden = torch.relu(spread(network.body(x["nodes"][0])))
    torch.testing.assert_close(network(x)[0], spread(network.head(hidden)), rtol=1e-6, atol=1e-6)


def test_loss_and_accuracy_count_labelled_nodes_only() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]]])
    y = torch.tensor([[0, 0, graphs.NONE]])
    expected = -(torch.log_softmax(logits[0], -1)[:2, 0]).mean()
    torch.testing.assert_close(graphs.node_loss(logits, y), expected[None])
    assert float(graphs.node_accuracy(logits, y)) == 0.5


def test_every_node_is_in_the_support_or_in_the_query_and_every_block_is_named() -> None:
    scenario = GraphNodes(shots=2)
    (group,) = scenario.tasks("test", scenario.clients()["test"][:3], 0, {})
    support, query = group.tasks.support.y[:, 0], group.tasks.query.y[:, 0]
    assert ((support >= 0) ^ (query >= 0)).all()
    for row in support:
        assert row[row >= 0].bincount().tolist() == [2, 2, 2]


def test_names_are_drawn_per_graph_so_that_a_pooled_model_stays_at_chance() -> None:
    scenario = GraphNodes()
    clients = scenario.clients()["train"]
    (group,) = scenario.tasks("train", clients, 1, {})
    names = (group.tasks.support.y + group.tasks.query.y - graphs.NONE)[:, 0, ::20]
    shares = torch.nn.functional.one_hot(names, 3).double().mean(0)
    assert float((shares - 1 / 3).abs().max()) < 0.06  # three standard errors of 600 graphs
    (fixed,) = GraphNodes(permuted=False).tasks("train", clients[:9], 1, {})
    same = (fixed.tasks.support.y + fixed.tasks.query.y - graphs.NONE)[:, 0, ::20]
    assert (same == torch.arange(3)).all()


def test_labels_spread_along_a_path_from_both_ends() -> None:
    edges = torch.tensor([[0, 1], [1, 2], [3, 4]])
    x = {"nodes": torch.zeros(1, 5, 1), "near": graphs.near(edges, 5)[None]}
    y = torch.tensor([[0, -100, -100, -100, 1]])
    predict = graphs.label_propagation(2).fit(None)(Batch(x, y))
    assert predict(x)[0].argmax(-1).tolist() == [0, 0, 0, 1, 1]


def test_communities_have_the_known_sizes_and_unlabelled_papers_count_nowhere(
    data_dir: Path,
) -> None:
    parts = planetoid.communities("citeseer", str(data_dir))
    assert all(30 <= len(part.y) <= 160 for part in parts)
    assert len(parts) >= 15
    for part in parts:
        assert int(part.edges.max()) < len(part.y)
        assert (part.edges[:, 0] != part.edges[:, 1]).all()
    scenario = GraphNodes(data="citeseer", data_dir=str(data_dir))
    (group,) = scenario.tasks("test", scenario.clients()["test"], 0, {})
    assert ((group.tasks.support.y >= 0).sum(-1) == 8).all()
    assert group.tasks.query.y.shape[-1] == 160
    # Padding has no edges and no label.
    assert (group.tasks.query.y[:, 0, -1] == graphs.NONE).any()


def test_a_damaged_file_of_papers_is_named(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "planetoid").mkdir()
    content = (data_dir / "planetoid" / "cora.npz").read_bytes()
    (tmp_path / "planetoid" / "cora.npz").write_bytes(content + b"x")
    with pytest.raises(DataError, match=r"cora\.npz is not the original"):
        GraphNodes(data="cora", data_dir=str(tmp_path)).clients()
