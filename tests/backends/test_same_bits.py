"""The same run gives the same bits on every back end, for any grouping and order of arrival."""

import itertools
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from fedmaml.client.app import app as client_app
from fedmaml.client.worker_processes import workers_of
from fedmaml.config import resolve, to_run_config
from fedmaml.core.params import flatten
from fedmaml.running import execute
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.app import app as server_app
from fedmaml.simulations.backends.in_process import InProcessGrid
from fedmaml.simulations.scenarios import CATALOGUE as SCENARIOS
from fedmaml.strategies import CATALOGUE
from tests import trees
from tests.catalogue import ACTING, reads_data, slow_unless
from tests.conftest import NEED_CLASSES, READ_TARGETS, REGRESSORS, ROOT

STRATEGIES = [
    *("maml", "fomaml", "reptile", "meta_sgd", "fedrep"),
    *(slow_unless(False, name) for name in ("ditto", "apfl", "scaffold", "fedbabu", "lslr")),
]


def hospitals(strategy: str, data_dir: Path, **settings: Any) -> dict[str, Any]:
    base = {"scenario": "hospitals", "strategy": strategy, "rounds": 3, "seed": 0}
    return base | {"data_dir": str(data_dir.absolute())} | settings


def digits(strategy: str, **settings: Any) -> dict[str, Any]:
    base = {"scenario": "digits", "strategy": strategy, "rounds": 3, "seed": 1, "clients": 12}
    return base | settings


class ShuffledGrid(InProcessGrid):
    """Answers arrive in random order."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        random.Random(len(replies)).shuffle(replies)
        return replies


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_grouping_of_clients_over_nodes_changes_no_bit(strategy: str, tmp_path: Path) -> None:
    hashes = {
        execute(
            resolve(digits(strategy, nodes=nodes, client_batch=1, rounds=2)), tmp_path / str(nodes)
        )["theta_sha256"]
        for nodes in (1, 5, 12)
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_order_of_arrival_changes_no_bit(strategy: str, tmp_path: Path, data_dir: Path) -> None:
    config = resolve(hospitals(strategy, data_dir, nodes=4))
    ordered = execute(config, tmp_path / "ordered")
    out = tmp_path / "shuffled"
    RunDirectory(out).create(config)
    run_config = to_run_config(config, out)
    grid = ShuffledGrid(client_app, 4, run_config)
    server_app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(run_config)))
    shuffled = RunDirectory(out).summary()
    assert shuffled is not None
    assert shuffled["theta_sha256"] == ordered["theta_sha256"]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param("float32", 1e-6, marks=pytest.mark.slow), ("float64", 1e-12)],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_vectorised_agrees_with_one_by_one(
    strategy: str, dtype: str, tolerance: float, tmp_path: Path
) -> None:
    thetas = []
    for batch in (1, 0):
        out = tmp_path / str(batch)
        # FedAvg-like steps with outer rate 1; Adam would amplify rounding near a zero gradient
        outer = {"outer.optimizer": "sgd", "outer.lr": 0.5, "outer.schedule": "constant"}
        execute(resolve(digits(strategy, dtype=dtype, client_batch=batch, **outer)), out)
        meta = RunDirectory(out).load_meta()
        thetas.append(torch.cat([flatten(params).double() for params in meta.values()]))
    one_by_one, vectorised = thetas
    assert (vectorised - one_by_one).norm() / one_by_one.norm() < tolerance


def test_same_seed_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    runs = [
        execute(resolve(digits("maml", seed=seed)), tmp_path / str(number))["theta_sha256"]
        for number, seed in enumerate((1, 1, 2))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_memory_of_clients_survives_rounds_wherever_they_live(tmp_path: Path) -> None:
    one = execute(resolve(digits("fedrep", client_batch=1)), tmp_path / "one")
    many = execute(resolve(digits("fedrep", client_batch=1, nodes=6)), tmp_path / "many")
    assert one["theta_sha256"] == many["theta_sha256"]
    assert one["metric"] == many["metric"]


METHODS = ("float16", "qsgd-8", "qsgd-4", "top-k")


def compressing(method: str, **settings: Any) -> dict[str, Any]:
    """Return settings under which both residuals and random rounding matter."""
    feedback = {"compression.error_feedback": True} if method != "none" else {}
    return {"compression.method": method, "client_batch": 1} | feedback | settings


@pytest.mark.parametrize("method", METHODS)
def test_compression_gives_the_same_bits_for_every_grouping(method: str, tmp_path: Path) -> None:
    hashes, up = set(), set()
    few = {"task.train_clients": 12, "task.validation_clients": 0, "task.test_clients": 12}
    for nodes in (1, 5, 12):  # 12: every client is a node of its own
        settings = compressing(method, nodes=nodes, clients=9, **few)
        summary = execute(resolve(digits("fedrep", **settings)), tmp_path / str(nodes))
        hashes.add(summary["theta_sha256"])
        up.add(summary["cost"]["totals"]["payload_bytes_up"])
        assert summary["rejected_replies"] == 0
    assert len(hashes) == len(up) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_sum_of_compressed_updates_has_the_bits_of_their_codes(
    method: str, tmp_path: Path
) -> None:
    """50 clients on one node are shorter as a sum, 24 bytes an entry; 10 on each of 5 as codes."""
    few = {"task.train_clients": 50, "task.validation_clients": 0, "task.test_clients": 5}
    hashes, sizes = set(), []
    for nodes in (1, 5):
        settings = compressing(method, nodes=nodes, clients=50, rounds=2, **few)
        summary = execute(resolve(digits("fomaml", **settings)), tmp_path / str(nodes))
        hashes.add(summary["theta_sha256"])
        sizes.append(summary["cost"]["per_message"]["bytes_up"])
        each = summary["cost"]["per_client_and_round"]["payload_bytes_up"]
    assert len(hashes) == 1
    assert sizes == [pytest.approx(24 * 2410, abs=4000), pytest.approx(10 * each, abs=2000)]


@pytest.mark.parametrize("rule", ["median", "multi-krum"])
def test_robust_rules_see_what_compressed_updates_stand_for(rule: str, tmp_path: Path) -> None:
    hashes = set()
    for nodes in (1, 12):
        settings = compressing("qsgd-4", nodes=nodes, **{"aggregation.rule": rule})
        summary = execute(resolve(digits("fomaml", **settings)), tmp_path / str(nodes))
        hashes.add(summary["theta_sha256"])
        assert summary["rejected_replies"] == 0
    assert len(hashes) == 1


def test_fewer_bytes_are_really_sent(tmp_path: Path) -> None:
    """What a node's replies lose in bytes is what the payload loses; the rest is envelope."""
    payload, messages = [], []
    for method in ("none", *METHODS):
        few = {"task.train_clients": 3, "task.test_clients": 3}
        settings = compressing(method, nodes=3, clients=3, **few)
        cost = execute(resolve(digits("fomaml", **settings)), tmp_path / method)["cost"]
        payload.append(cost["per_client_and_round"]["payload_bytes_up"])
        messages.append(cost["per_message"]["bytes_up"])
    assert payload == [9640, 4820, 2450, 1245, 1928]
    for each, message in zip(payload, messages, strict=True):
        assert message - each == pytest.approx(messages[0] - payload[0], abs=30)


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["flower-simulation", "flower-deployment"])
def test_compression_gives_the_bits_of_one_process_on_flower(
    backend: str, tmp_path: Path, data_dir: Path
) -> None:
    """A site hosts one client and sends codes; the one process sums four clients."""
    settings = compressing("qsgd-4", rounds=2)
    here = execute(resolve(hospitals("fomaml", data_dir, **settings)), tmp_path / "here")
    there = execute(
        resolve(hospitals("fomaml", data_dir, nodes=4, backend=backend, **settings)),
        tmp_path / "there",
    )
    assert there["rejected_replies"] == 0
    assert there["theta_sha256"] == here["theta_sha256"]
    assert there["metric"] == here["metric"]


@pytest.mark.slow  # by default `flwr run .` in a clone shows it, tests/backends/test_flwr_run.py
@pytest.mark.flower
@pytest.mark.timeout(240)
def test_flower_simulation_gives_the_bits_of_one_process(tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("ray")
    here = execute(resolve(hospitals("maml", data_dir)), tmp_path / "here")
    ray = resolve(hospitals("maml", data_dir, nodes=4, backend="flower-simulation"))
    there = execute(ray, tmp_path / "there")
    assert there["theta_sha256"] == here["theta_sha256"]
    assert there["metric"] == here["metric"]


@pytest.mark.flower
@pytest.mark.timeout(300)
def test_flower_deployment_gives_the_bits_of_one_process(tmp_path: Path, data_dir: Path) -> None:
    settings = {"rounds": 1}
    here = execute(resolve(hospitals("fedrep", data_dir, **settings)), tmp_path / "here")
    deployed = resolve(
        hospitals("fedrep", data_dir, nodes=2, backend="flower-deployment", **settings)
    )
    there = execute(deployed, tmp_path / "there")
    assert there["theta_sha256"] == here["theta_sha256"]
    assert there["metric"] == here["metric"]
    # And the sockets carried the messages that the server counted.
    assert "socket" not in here["cost"]
    assert there == RunDirectory(tmp_path / "there").summary()
    parts = [there["cost"][name] for name in ("totals", "evaluation", "roll_call")]
    down, up = (sum(part[f"message_bytes_{way}"] for part in parts) for way in ("down", "up"))
    assert there["cost"]["socket"]["down"]["objects"] == pytest.approx(down, rel=0.001)
    # What a SuperLink still has is not sent again; numbers of other lengths differ by a few bytes.
    not_sent = up - there["cost"]["socket"]["up"]["objects"]
    assert -10 <= not_sent <= 600
    assert len(there["cost"]["socket"]["nodes"]) == 2


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.parametrize("backend", ["flower-simulation", "flower-deployment"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_the_same_bits_on_flower(
    strategy: str, backend: str, tmp_path: Path, data_dir: Path
) -> None:
    here = execute(resolve(hospitals(strategy, data_dir)), tmp_path / "here")
    there = execute(
        resolve(hospitals(strategy, data_dir, nodes=4, backend=backend)), tmp_path / "there"
    )
    assert there["theta_sha256"] == here["theta_sha256"]


# --- graphs, sequences and episodes ---------------------------------------------------------------


def assert_same_bits(settings: dict[str, Any], backend: str, nodes: int, folder: Path) -> None:
    """Run on two workers, or on some nodes of a back end, and compare with one process."""
    here = execute(resolve(settings), folder / "here")
    elsewhere = {"workers": 2} if backend == "workers" else {"backend": backend, "nodes": nodes}
    there = execute(resolve(settings | elsewhere), folder / "there")
    assert there["rejected_replies"] == 0
    assert there["theta_sha256"] == here["theta_sha256"]
    assert there["metric"] == here["metric"]


@pytest.fixture
def installed_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the scenarios of tests/trees.py to every process by entry points."""
    package = tmp_path / "site" / "trees-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: trees\nVersion: 0\n")
    lines = [f"{name} = tests.trees:{cls.__name__}" for name, cls in trees.SCENARIOS.items()]
    (package / "entry_points.txt").write_text("[fedmaml.scenarios]\n" + "\n".join(lines) + "\n")
    folders = [str(package.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.syspath_prepend(package.parent)  # which worker processes take over
    workers_of(2).end()  # those of before know nothing of them
    for name, scenario in trees.SCENARIOS.items():  # this process has read its catalogue already
        monkeypatch.setitem(SCENARIOS, name, scenario)


FAST = [("graphs", "fedrep")]
CANNOT = [("nodes", name) for name in (*NEED_CLASSES, *READ_TARGETS)]


@pytest.mark.flower
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("installed_trees")
@pytest.mark.parametrize(
    "backend",
    [
        "workers",
        pytest.param("flower-simulation", marks=pytest.mark.slow),
        pytest.param("flower-deployment", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [
        pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow])
        for case in itertools.product(trees.SCENARIOS, CATALOGUE)
        if case not in CANNOT and case[1] not in REGRESSORS and CATALOGUE[case[1]].facts.has_rounds
    ],
)
def test_trees_give_the_same_bits_on_every_back_end(
    scenario: str, strategy: str, backend: str, tmp_path: Path
) -> None:
    if backend == "flower-deployment" and (scenario, strategy) not in [
        *FAST,
        ("sequences", "maml"),
    ]:
        pytest.skip("a minute each; these two cover trees and draws over sockets")
    settings = {"scenario": scenario, "strategy": strategy, "engine": "loop"}
    assert_same_bits(settings, backend, 3, tmp_path)


@pytest.mark.flower
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "backend",
    [
        "workers",
        pytest.param("flower-simulation", marks=pytest.mark.slow),
        pytest.param("flower-deployment", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [
        ("navigation", "maml"),  # score function, noise drawn as data
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("bandits", "rl2"),  # recurrent
                ("arm", "meta_sgd"),  # through the motion
                ("trading", "fomaml"),  # a series in order
                ("tabular", "maml"),  # enumerated
                ("half_circle", "pearl"),  # off-policy, from a memory
                ("molecule_design", "pearl"),  # what is played depends on what was played
            )
        ),
    ],
)
def test_episodes_give_the_same_bits_on_every_back_end(
    scenario: str, strategy: str, backend: str, tmp_path: Path
) -> None:
    settings = {"scenario": scenario, "strategy": strategy, "rounds": 2, "clients": 4,
                "engine": "loop", "task": ACTING[scenario]}  # fmt: skip
    settings["evaluation"] = {"split": "validation", "largest": 3}
    assert_same_bits(settings, backend, 2, tmp_path)


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["workers", "flower-simulation", "flower-deployment"])
@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [
        ("jmak", "map"),  # a formula, in float64
        ("synthesis", "ridge_head"),  # supports of another size in each round
        ("inverse_design", "maml"),  # starts at a decoder that every process trains
        ("materials", "anp"),
        ("molecules", "protonet"),
        ("sky", "fomaml"),
        ("sky_anomaly", "protonet"),
    ],
)
def test_sciences_give_the_same_bits_on_every_back_end(
    scenario: str, strategy: str, backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "flower-deployment" and scenario not in ("jmak", "inverse_design", "molecules"):
        pytest.skip("more than a minute each; these cover a formula, a decoder and a large file")
    settings = {"scenario": scenario, "strategy": strategy, "rounds": 2, "clients": 4,
                "engine": "loop", "evaluation": {"split": "validation", "largest": 3}}  # fmt: skip
    if reads_data(scenario):
        settings["data_dir"] = str(request.getfixturevalue("data_dir").absolute())
    assert_same_bits(settings, backend, 2, tmp_path)
