import difflib
import importlib
import tomllib
from pathlib import Path

import torch
from flwr.app import Context, RecordDict
from flwr.serverapp.strategy import Strategy

from fedmaml.server import FlowerStrategy
from fedmaml.simulations.backends.in_process import InProcessGrid

APP = Path(__file__).parents[2] / "examples" / "stranger"
FOLDERS = ("plain", "stranger")
FILES = ("client_app.py", "server_app.py")
NODES, ROUNDS = 4, 3


def difference():
    """Added and removed lines from the FedAvg version to ours, blank lines left out."""
    added, removed = [], []
    for name in FILES:
        plain, meta = ((APP / folder / name).read_text().split("\n") for folder in FOLDERS)
        for line in difflib.unified_diff(plain, meta, n=0, lineterm=""):
            if line[1:].strip() and not line.startswith(("+++", "---", "@@")):
                (added if line[0] == "+" else removed).append(line)
    return added, removed


def run(monkeypatch, folder, tmp_path):
    """Run one version to its end; return its strategy and what Flower's `start` returned."""
    ended = []
    start = Strategy.start

    def spy(self, *args, **kwargs):
        result = start(self, *args, **kwargs)
        ended.append((self, result))
        return result

    monkeypatch.setattr(Strategy, "start", spy)
    monkeypatch.syspath_prepend(str(APP))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    server = importlib.import_module(f"{folder}.server_app").app
    client = importlib.import_module(f"{folder}.client_app").app
    defaults = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    run_config = defaults | {"num-server-rounds": ROUNDS}
    grid = InProcessGrid(client, NODES, run_config)
    server(grid=grid, context=Context(1, 1, {}, RecordDict(), run_config))
    ((strategy, result),) = ended
    return strategy, result


def column(records, name):
    return [float(records[number][name]) for number in range(1, ROUNDS + 1)]


def test_at_most_15_lines_change():
    # A line that takes another's place is one change, so the count is the larger of the two.
    added, removed = difference()
    assert max(len(added), len(removed)) <= 15, "\n".join(removed + added)
    assert "fedmaml" not in (APP / "stranger" / "task.py").read_text()


def test_readme_shows_the_difference_as_it_is():
    added, removed = difference()
    shown = (APP / "README.md").read_text().split("```diff\n")[1].split("```")[0].splitlines()
    marked = [line for line in shown if line.startswith(("+", "-")) and line[1:].strip()]
    changed = [line for line in marked if not line.startswith(("+++", "---"))]
    assert sorted(changed) == sorted(added + removed)


def test_plain_version_runs_and_its_loss_falls(monkeypatch, tmp_path):
    _, result = run(monkeypatch, "plain", tmp_path)
    losses = column(result.train_metrics_clientapp, "train_loss")
    assert losses[-1] < losses[0]


def test_meta_version_runs_and_its_loss_falls(monkeypatch, tmp_path):
    strategy, result = run(monkeypatch, "stranger", tmp_path)
    assert isinstance(strategy, FlowerStrategy)
    assert isinstance(strategy, Strategy)
    losses = column(result.train_metrics_clientapp, "loss_after")
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert strategy.last_round.clients == tuple(range(NODES))
    assert strategy.last_round.rejected == ()
    assert 0 <= column(result.evaluate_metrics_clientapp, "accuracy:after")[-1] <= 1

    net = importlib.import_module("stranger.task").Net()
    net.load_state_dict(result.arrays.to_torch_state_dict(), strict=True)
    saved = torch.load(tmp_path / "final_model.pt")
    for name, value in net.state_dict().items():
        assert torch.equal(value, saved[name])
