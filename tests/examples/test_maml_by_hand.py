import runpy
from pathlib import Path

import pytest
import torch

from fedmaml import config
from fedmaml.core import seeding
from fedmaml.core.params import flatten
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.cohort import choose

EXAMPLE = Path(__file__).parents[2] / "examples" / "maml_by_hand.py"


@pytest.fixture(scope="module")
def by_hand():
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_plain_loops_and_library_end_in_the_same_theta(by_hand, tmp_path, inner_steps):
    run = config.resolve({
        "scenario": "sinusoid", "strategy": "maml", "rounds": 10, "clients": 5,
        "dtype": "float64", "task.train_clients": 50, "task.test_clients": 2,
        "inner.lr": 0.01, "inner.steps": inner_steps, "outer.lr": 0.001,
    })  # fmt: skip
    execute(run, tmp_path / "run")
    library = RunDirectory(tmp_path / "run").load_meta()["theta"]

    scenario = run.make_scenario()
    rng = seeding.generator(run.seed, "init")
    start = run.make_strategy().build(run.make_problem(), rng).state.meta["theta"]

    def cohort(number):
        clients = choose(run.seed, number, scenario.clients()["train"], run.clients)
        (group,) = scenario.tasks("train", clients, number, {})
        support, query = group.tasks
        return list(zip(support.x, support.y, query.x, query.y, strict=True))

    ended = by_hand["federated_maml"](list(start.values()), cohort, 10, inner_steps=inner_steps)

    expected = flatten({name: library[name] for name in start})
    actual = flatten(dict(zip(start, ended, strict=True)))
    assert actual.dtype == torch.float64
    moved = (expected - flatten(start)).norm() / expected.norm()
    assert moved > 1e-3  # 10 rounds of Adam at 0.001 per entry: agreement is not for want of a step
    assert (actual - expected).norm() / expected.norm() < 1e-10


def test_gradient_holds_second_derivatives(by_hand):
    # One weight w = 1 and bias b = 0 at x = 1, y = 0: loss s^2 of the output s = w + b. A step of
    # lr 0.1 takes 0.2 s from each, so s becomes 0.6 s, the loss 0.36 s^2, its derivative 0.72.
    # First order would give 2 * 0.6 = 1.2.
    theta = [torch.ones(1, 1, requires_grad=True), torch.zeros(1, requires_grad=True)]
    x, y = torch.ones(1, 1), torch.zeros(1, 1)
    loss = by_hand["mean_squared_error"](by_hand["adapt"](theta, x, y, 0.1, 1), x, y)
    assert [g.item() for g in torch.autograd.grad(loss, theta)] == pytest.approx([0.72, 0.72])


@pytest.mark.slow
def test_main_prints_progress_and_adaptation_helps_unseen_clients(by_hand, capsys):
    by_hand["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("round 100: ")
    losses = [float(line.split()[-1]) for line in lines if line.startswith("unseen")]
    assert losses[1] < losses[0]
    assert losses[-1] < 0.7 * losses[0]
