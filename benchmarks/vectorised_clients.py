"""Time per client, vectorised against one by one, through the whole in-process back end.

python -m benchmarks.vectorised_clients [--clients 1000] [--repeats 5] [--json FILE]

Rounds of both kinds alternate in one process, on one thread; the median round counts. A round
includes cohort, messages, tasks, updates, aggregation and the outer step. Then the layers that
fedmaml has because `vmap` does not take PyTorch's: updates of 100 clients by `vmap` and by `loop`.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.choice import measured, requests
from benchmarks.engine.workloads import attentive, recurrent
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.client.app import app as client_app
from fedmaml.config import RunConfig, resolve, to_run_config
from fedmaml.core.networks import GRU
from fedmaml.server.cohort import RollCall, choose
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.server.metered_grid import MeteredGrid
from fedmaml.server.roll import call_roll
from fedmaml.simulations.backends.in_process import InProcessGrid

COLUMNS = {
    "scenario": ["{scenario}"],
    "strategy": ["{strategy}"],
    "vectorised, us per client": ["{vectorised:.0f}"],
    "one by one, us per client": ["{one_by_one:.0f}"],
    "ratio": ["{ratio:.0f}x"],
    "clients per second": ["{clients_per_second:,.0f}"],
}


LAYERS = {
    "GRU, 20 steps": recurrent(lambda: GRU(8, 16)),
    "attention, 4 heads, 20 steps": attentive(),
}
CLIENTS_OF_LAYERS, LEFT_OUT_OF_LAYERS = 100, ("compiled",)
COLUMNS_OF_LAYERS = {
    "layer": ["{layer}"],
    "strategy": ["{strategy}"],
    "vmap, us per client": ["{vmap:.0f}"],
    "loop, us per client": ["{loop:.0f}"],
    "ratio": ["{ratio:.1f}x"],
}


class Stand:
    """A server and its nodes, ready to run rounds of one kind."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.config: RunConfig = resolve(settings)
        run_config = to_run_config(self.config, Path("unused"))
        self.grid = MeteredGrid(InProcessGrid(client_app, 1, run_config, by_value=True))
        self.roll_call: RollCall = call_roll(self.grid, 1, 10.0)
        self.strategy = FlowerStrategy(
            self.config.make_strategy(),
            self.config.make_problem(),
            roll_call=self.roll_call,
            by_value=True,
        )
        self.rounds = 0

    def round(self) -> float:
        """Run a round; return its seconds."""
        self.rounds += 1
        started = time.perf_counter()
        population = self.roll_call.population("train")
        cohort = choose(0, self.rounds, population, self.config.clients)
        messages = self.strategy.train_messages(self.rounds, self.roll_call, cohort)
        result = self.strategy.step(self.rounds, self.grid.send_and_receive(messages))
        assert len(result.clients) == len(cohort)
        return time.perf_counter() - started


def compared(scenario: str, strategy: str, clients: int, repeats: int) -> dict[str, Any]:
    """Return the microseconds per client of both kinds of round."""
    settings = {
        "scenario": scenario, "strategy": strategy, "clients": clients, "inner.steps": 5,
        "task.train_clients": clients, "rounds": 100,
    }  # fmt: skip
    stands = [Stand(settings | {"client_batch": batch}) for batch in (0, 1)]
    times: list[list[float]] = [[], []]
    for repeat in range(repeats + 1):
        for stand, kept in zip(stands, times, strict=True):
            seconds = stand.round()
            if repeat:  # the first round warms up
                kept.append(seconds)
    fast, slow = (1e6 * statistics.median(kept) / clients for kept in times)
    return {
        "scenario": scenario,
        "strategy": strategy,
        "vectorised": fast,
        "one_by_one": slow,
        "ratio": slow / fast,
        "clients_per_second": 1e6 / fast,
    }


def layers_compared(layer: str, strategy: str, repeats: int) -> dict[str, Any]:
    """Return the microseconds of CPU per client of both engines."""
    contenders = requests(LAYERS[layer], strategy, 5, CLIENTS_OF_LAYERS, LEFT_OUT_OF_LAYERS)[1]
    taken = measured(contenders, repeats, CLIENTS_OF_LAYERS)
    return {"layer": layer, "strategy": strategy, "ratio": taken["loop"] / taken["vmap"], **taken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    add_json_option(parser)
    arguments = parser.parse_args()
    rows = {
        f"{scenario}, {strategy}": compared(
            scenario, strategy, arguments.clients, arguments.repeats
        )
        for scenario in ("digits", "sinusoid")
        for strategy in ("fomaml", "maml")
    }
    of_layers = {
        f"{layer}, {strategy}": layers_compared(layer, strategy, arguments.repeats)
        for layer in LAYERS
        for strategy in ("fomaml", "maml")
    }
    tables = {"rounds": Table(COLUMNS, rows), "layers": Table(COLUMNS_OF_LAYERS, of_layers)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
