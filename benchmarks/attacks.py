"""Accuracy under attack: ten devices of digits, one to four of them malicious, by rule and attack.

python -m benchmarks.attacks [--seeds 3] [--rounds 100] [--json FILE]

Malicious devices know the updates of all others (Blanchard et al. 2017 assume no less) and send

    sign flip    their own honest update, negated
    Gaussian     noise, five times as long as the median update: below ``aggregation.largest_norm``
    ALIE         mean - z * standard deviation, coordinate by coordinate (Baruch, Baruch, Goldberg,
                 "A little is enough", NeurIPS 2019), z from their numbers
    IPM          -2 times the mean (Xie, Koyejo, Gupta, "Fall of empires", UAI 2019)
    mimic        the update of one honest device (Karimireddy, He, Jaggi, ICLR 2022)
    label flip   an honest update on labels 9 - y

A cell is the accuracy after adaptation minus that of the same rule and seeds without an attack, in
points, mean over seeds. A rule that refuses that number of malicious devices (see
`fewest_updates`) has no cell. NaN needs no rule: such replies are left out before (docs/faults.md).
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import NormalDist
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.runs import column, run_clients
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.config.checks import fewest_updates
from fedmaml.core.aggregation import ExactSum, exact_sum
from fedmaml.core.requests import TrainReply
from fedmaml.server.flower_strategy import FlowerStrategy
from fedmaml.simulations.scenarios.digits import CLASSES, Digits

DEVICES = 10
RULES = "mean", "median", "trimmed-mean", "krum", "multi-krum", "bulyan"


class Round(NamedTuple):
    """What malicious devices know.

    Attributes:
        honest: Updates of the others, ``(honest, entries)``.
        own: The updates that they would send if they were honest, ``(malicious, entries)``.
        noise: For what they draw.
    """

    honest: Tensor
    own: Tensor
    noise: torch.Generator


def _gaussian(round: Round) -> Tensor:
    drawn = torch.randn(round.own.shape, generator=round.noise, dtype=round.own.dtype)
    return 5 * round.honest.norm(dim=1).median() * drawn / drawn.norm(dim=1, keepdim=True)


def _alie(round: Round) -> Tensor:
    count, malicious = len(round.honest) + len(round.own), len(round.own)
    supporters = count // 2 + 1 - malicious
    z = NormalDist().inv_cdf((count - malicious - supporters) / (count - malicious))
    return round.honest.mean(0) - z * round.honest.std(0)


ATTACKS: dict[str, Callable[[Round], Tensor] | None] = {
    "sign flip": lambda round: -round.own,
    "Gaussian": _gaussian,
    "ALIE": _alie,
    "IPM": lambda round: -2 * round.honest.mean(0),
    "mimic": lambda round: round.honest[0],
    "label flip": None,
}
"""What malicious devices send, ``(malicious, entries)`` or ``(entries,)``; None: other data."""


def settings_of(rule: str, malicious: int, rounds: int, seed: int) -> dict[str, Any]:
    """Return a run of ten devices, each a node of its own."""
    tuned: dict[str, dict[str, Any]] = {
        "trimmed-mean": {"aggregation.trim": max(malicious, 1) / DEVICES},
        "krum": {"aggregation.malicious": malicious},
        "multi-krum": {
            "aggregation.malicious": malicious, "aggregation.selected": DEVICES - malicious
        },
        "bulyan": {"aggregation.malicious": malicious},
    }  # fmt: skip
    return {
        "scenario": "digits", "strategy": "fomaml", "rounds": rounds, "seed": seed, "clients": 0,
        "nodes": DEVICES, "task.train_clients": DEVICES, "task.validation_clients": 0,
        "aggregation.rule": rule, **tuned.get(rule, {}),
    }  # fmt: skip


def withstands(rule: str, malicious: int) -> bool:
    """Return whether a rule is made for a number of malicious devices of ten."""
    return rule != "mean" and fewest_updates(rule, malicious) <= DEVICES


@contextmanager
def attacked(attack: str, malicious: int) -> Iterator[None]:
    """Let the last devices of all runs in this context be malicious."""
    first = DEVICES - malicious
    send = ATTACKS[attack]
    if send is None:
        honest_tasks = Digits.tasks

        def flipped(self: Digits, split: Any, clients: Sequence[int], *others: Any) -> Any:
            groups = honest_tasks(self, split, clients, *others)
            if split == "train":
                for group in groups:
                    bad = torch.tensor([client >= first for client in group.clients])
                    for labels in (group.tasks.support.y, group.tasks.query.y):
                        labels[bad] = CLASSES - 1 - labels[bad]
            return groups

        with patch.object(Digits, "tasks", flipped):
            yield
        return
    within_limits = FlowerStrategy._within_limits
    noise = torch.Generator().manual_seed(malicious)

    def forged(self: FlowerStrategy, answered: list[tuple[str, TrainReply]], rejected: Any) -> Any:
        rows = torch.stack([_row(reply) for _, reply in answered])
        bad = torch.tensor([reply.clients[0] >= first for _, reply in answered])
        rows[bad] = send(Round(rows[~bad], rows[bad], noise))
        replies = [
            (node, _sending(reply, row)) for (node, reply), row in zip(answered, rows, strict=True)
        ]
        return within_limits(self, replies, rejected)

    with patch.object(FlowerStrategy, "_within_limits", forged):
        yield


def _row(reply: TrainReply) -> Tensor:
    (value,) = reply.update.values()
    return value.mean() if isinstance(value, ExactSum) else value[0]


def _sending(reply: TrainReply, row: Tensor) -> TrainReply:
    ((group, value),) = reply.update.items()
    if isinstance(value, ExactSum):
        weights = torch.tensor(reply.weights, dtype=torch.float64)
        return replace(reply, update={group: exact_sum(row[None], weights)})
    return replace(reply, update={group: row[None]})


def accuracy(rule: str, malicious: int, attack: str, rounds: int, seeds: int) -> float:
    """Return the accuracy of unseen devices after adaptation, mean over seeds, in points."""
    values = []
    for seed in range(seeds):
        settings = settings_of(rule, malicious, rounds, seed)
        if attack:
            with attacked(attack, malicious):
                _, clients = run_clients(settings)
        else:
            _, clients = run_clients(settings)
        values.append(column(clients, "accuracy:after").mean())
    return float(100 * np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    add_json_option(parser)
    options = parser.parse_args()
    columns: dict[str, list[str]] = {"rule": ["{rule}"], "malicious": ["{malicious} of 10"]}
    columns["without attack"] = ["{unattacked:.1f}"]
    columns |= {attack: [f"{{{attack.replace(' ', '_')}:+.1f}}"] for attack in ATTACKS}
    rows: dict[str, dict[str, Any]] = {}
    for malicious in (1, 2, 3, 4):
        for rule in RULES:
            if rule != "mean" and not withstands(rule, malicious):
                continue
            honest = accuracy(rule, malicious, "", options.rounds, options.seeds)
            row = {"rule": rule, "malicious": malicious, "unattacked": honest}
            for attack in ATTACKS:
                under = accuracy(rule, malicious, attack, options.rounds, options.seeds)
                row[attack.replace(" ", "_")] = under - honest
            rows[f"{rule}, {malicious}"] = row
            print(row, flush=True)
    tables = {"grid": Table(columns, rows)}
    print_tables(tables)
    if options.json:
        write(options.json, tables)


if __name__ == "__main__":
    main()
