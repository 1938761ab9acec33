"""Arrays, tensors, frames and Datasets in memory as a scenario."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import fedmaml as fm
from fedmaml.config import load_toml, resolve
from fedmaml.core.errors import ConfigurationError, DataError, FedmamlError
from fedmaml.core.losses import half_squared_error
from fedmaml.core.metrics import MAE
from fedmaml.simulations.datasets import arrays

pytestmark = pytest.mark.usefixtures("_catalogues_as_before")

SPLITS = ("train", "validation", "test")


def pairs(kind: str = "binary", clients: int = 8) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    made = {}
    for number in range(clients):
        x = rng.normal(3, 2, size=(10 + number, 3))
        score = x @ [1.0, 2.0, -1.0] + rng.normal()
        y: Mapping[str, Any] = {
            "binary": np.where(score > 6, "ill", "well"),
            "three": np.digitize(score, [4, 8]) * 10,
            "number": 100 + 20 * score,
        }
        made[f"c{number}"] = (x, y[kind])
    return made


def shared(scenario: fm.Scenario) -> dict[str, torch.Tensor]:
    each = [scenario.statistics(client) for client in scenario.clients()["train"]]
    return {name: sum(one[name] for one in each) for name in each[0]}


def tasks(scenario: fm.Scenario, split: Any, round: int = 1) -> list[Any]:
    clients = scenario.clients()[split]
    return [
        batch
        for group in scenario.tasks(split, clients, round, shared(scenario))
        for batch in (group.tasks.support, group.tasks.query)
    ]


def test_test_clients_are_those_named() -> None:
    scenario = fm.from_clients(pairs(), test=["c2", "c5"], validation=0.2)
    sizes = {split: len(clients) for split, clients in scenario.clients().items()}
    assert sizes == {"train": 5, "validation": 1, "test": 2}
    tests = [scenario.groups(client)["client"] for client in scenario.clients()["test"]]
    assert sorted(tests) == ["c2", "c5"]


def test_training_inputs_have_mean_0_and_scale_1_and_are_split_anew() -> None:
    scenario = fm.from_clients(pairs())
    x = torch.cat([batch.x.flatten(0, 1) for batch in tasks(scenario, "train")])
    assert torch.allclose(x.mean(0), torch.zeros(3, dtype=x.dtype), atol=1e-9)
    assert torch.allclose(x.std(0, correction=0), torch.ones(3, dtype=x.dtype))
    first, second = (tasks(scenario, "train", round)[0].x for round in (1, 2))
    assert not torch.equal(first, second)
    test = [tasks(scenario, "test", round)[0].x for round in (1, 2)]
    assert torch.equal(*test)


def test_a_missing_number_is_the_mean() -> None:
    data = pairs()
    for x, _ in data.values():
        x[0, 1] = np.nan
    x = torch.cat([batch.x.flatten(0, 1) for batch in tasks(fm.from_clients(data), "train")])
    assert (x[:, 1] == 0).sum() == len(fm.from_clients(data).clients()["train"])
    assert not x.isnan().any()


@pytest.mark.parametrize(
    ("kind", "outputs", "headline"),
    [("binary", 1, "accuracy"), ("three", 3, "accuracy"), ("number", 1, "rmse")],
)
def test_the_target_determines_network_loss_and_metrics(
    kind: str, outputs: int, headline: str
) -> None:
    problem = fm.from_clients(pairs(kind)).problem()
    assert problem.metrics[0].name == headline
    assert problem.network()(torch.zeros(2, 3)).shape == (2, outputs)


def test_classes_are_the_labels_in_sorted_order() -> None:
    data = {name: (x, y) for name, (x, y) in pairs("three").items()}
    scenario = fm.from_clients(data, test=["c0"])
    (client,) = scenario.clients()["test"]
    support, query = tasks(scenario, "test")
    got = torch.cat([support.y.flatten(), query.y.flatten()]).sort().values
    assert got.tolist() == sorted(data["c0"][1] // 10)
    assert scenario.groups(client) == {"client": "c0"}


@pytest.mark.parametrize("form", ["tensors", "datasets", "columns"])
def test_tensors_and_datasets_are_taken_like_arrays(form: str) -> None:
    forms: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
        "tensors": lambda x, y: (torch.tensor(x), torch.tensor(y)),
        "datasets": lambda x, y: TensorDataset(torch.tensor(x), torch.tensor(y)),
        "columns": lambda x, y: (x, y[:, None]),
    }
    data = pairs("number")
    expected = tasks(fm.from_clients(data), "test")
    got = tasks(fm.from_clients({name: forms[form](x, y) for name, (x, y) in data.items()}), "test")
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)


def test_frames_give_what_arrays_give_and_words_become_one_hot() -> None:
    pandas = pytest.importorskip("pandas")
    data = pairs("number")
    frames = {
        name: (pandas.DataFrame(x, columns=list("abc")), pandas.Series(y, name="days"))
        for name, (x, y) in data.items()
    }
    plain, words = fm.from_clients(frames), {
        name: (x.assign(sex=["f", "m"] * (len(x) // 2) + ["f"] * (len(x) % 2)), y)
        for name, (x, y) in frames.items()
    }  # fmt: skip
    assert plain.problem().metrics[0].unit == "days"
    for one, other in zip(tasks(plain, "test"), tasks(fm.from_clients(data), "test"), strict=True):
        assert torch.allclose(one.x, other.x)
        assert torch.allclose(one.y, other.y)
    (first, *_) = tasks(fm.from_clients(words), "test")
    assert first.x.shape[-1] == 5
    assert (first.x[..., 3:].sum(-1) == 1).all()


def test_an_own_network_gets_the_shape_that_was_given() -> None:
    images = {
        name: (np.stack([x, x], 1), y) for name, (x, y) in pairs("three").items()
    }  # (rows, 2, 3)
    seen = []

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape[-2:]))
            return self.head(x.flatten(-2))

    scenario = fm.from_clients(images, network=Network, metrics=["log_loss"])
    made = fm.run(scenario, "fomaml", rounds=1, out="own")
    assert made.summary["metric"]["name"] == "log_loss"
    assert set(seen) == {(2, 3)}


def test_own_losses_and_metrics_are_used() -> None:
    def doubled(prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * half_squared_error(prediction, y)

    problem = fm.from_clients(pairs("number"), loss=doubled, metrics=[MAE, "r2"]).problem()
    assert problem.loss is doubled
    assert [metric.name for metric in problem.metrics] == ["mae", "r2"]
    assert fm.from_clients(pairs("number"), loss="squared_error").problem().loss is not doubled


def test_it_runs_and_its_configuration_repeats_it_in_this_process() -> None:
    scenario = fm.from_clients(pairs())
    made = fm.run(scenario, "maml", rounds=2, out="first")
    config = resolve(load_toml(made.path / "config.toml"))
    assert config.make_scenario() == scenario
    again = fm.run(fm.from_clients(pairs()), "maml", rounds=2, out="again")
    assert again.summary["theta_sha256"] == made.summary["theta_sha256"]
    for words in ({"workers": 2}, {"backend": "flower-simulation"}):
        with pytest.raises(ConfigurationError, match="has its data in the memory of this process"):
            fm.run(scenario, rounds=1, **words)


def test_equal_data_with_other_code_are_another_scenario() -> None:
    def first() -> nn.Module:
        return nn.Linear(3, 1)

    def second() -> nn.Module:
        return nn.Linear(3, 1, bias=False)

    one, other = (fm.from_clients(pairs(), network=network) for network in (first, second))
    assert one != other
    assert one.problem().network is first
    assert other.problem().network is second
    assert one == fm.from_clients(pairs(), network=first)


def test_another_process_says_that_it_lacks_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = fm.from_clients(pairs())
    monkeypatch.setattr(arrays, "_HELD", {})
    with pytest.raises(ConfigurationError, match="another process held in memory; pass them again"):
        scenario.problem()


def changed(name: str, **new: Any) -> dict[str, Any]:
    data = pairs()
    x, y = data[name]
    return data | {name: (new.get("x", x), new.get("y", y))}


X, Y = pairs()["c1"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ([{}], ConfigurationError, "at least 3 clients"),
        ([pairs(clients=2)], ConfigurationError, "at least 2 must be; pass further clients"),
        ([changed("c1", x=X[:-1])], DataError, "client 'c1': X has 10 rows and y 11"),
        ([changed("c1", x=X[:, 0])], DataError, "client 'c1': X has shape (11,); give (rows, *"),
        ([changed("c1", x=X[:, :2])], DataError, "client 'c1': an example has shape (2,)"),
        ([changed("c1", x=X[:3], y=Y[:3])], DataError, "client 'c1' has 3 rows"),
        ([changed("c1", x=X * np.inf)], DataError, "client 'c1', row 0: X is infinite"),
        ([changed("c1", x=X.astype(str))], DataError, "a pandas frame may have columns of text"),
        ([changed("c1", y=np.stack([Y, Y], 1))], DataError, "y has shape (11, 2); give (rows,)"),
        ([changed("c1", y=[None, *Y[1:]])], DataError, "client 'c1', row 0: y is missing"),
        ([pairs() | {"c1": X}], DataError, "client 'c1': give a pair (X, y)"),
        ([pairs(), {"test": ["c11"]}], ConfigurationError, "no client 'c11'; did you mean 'c1'"),
        ([pairs(), {"metrics": ["acuracy"]}], ConfigurationError, "did you mean 'accuracy'"),
        ([pairs(), {"loss": "entropy"}], ConfigurationError, "did you mean 'cross_entropy'"),
        ([pairs(), {"network": "cnn"}], ConfigurationError, "network = 'cnn': give 'mlp'"),
        ([pairs(), {"kind": "regression"}], DataError, "the targets are labels, no numbers"),
        ([pairs(), {"shots": 18, "test": ["c0"]}], ConfigurationError, "client 'c0' has 10 rows"),
        (
            [changed("c1", y=["?"] * 11), {"test": ["c1"]}], DataError,
            "client 'c1', row 0: a class that no training client has",
        ),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused_by_client_and_row(
    arguments: list[Any], error: type[FedmamlError], words: str
) -> None:
    data, *more = arguments
    with pytest.raises(error, match=re.escape(words)):
        fm.from_clients(data, **(more[0] if more else {}))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_list_of_clients_is_no_mapping() -> None:
    with pytest.raises(ConfigurationError, match=r"clients is list: pass name -> \(X, y\)"):
        fm.from_clients([1, 2])
