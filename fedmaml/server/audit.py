"""What a server can check of leakage: who trained, who is evaluated, who sent statistics.

A server has no data. Checks of data and code run before round 1, where the data are
(`fedmaml.auditing`); their findings are in the run directory.
"""

import logging

from fedmaml.auditing import KINDS, Audit, Finding, NotChecked, clients_seen_in_training
from fedmaml.config import RunConfig
from fedmaml.runs.directory import RunDirectory
from fedmaml.server.cohort import RollCall, choose

logger = logging.getLogger("fedmaml")

_ELSEWHERE = (
    "the data are not on the server; `fedmaml audit --config config.toml` finds it where they are, "
    "and `fedmaml.auditing.audit_task` in an app of one's own"
)


def audited(config: RunConfig, roll_call: RollCall, directory: RunDirectory) -> Audit:
    """Return the findings from before the run together with the server's own, which are logged."""
    before = directory.audit()
    if before is None:
        kinds = [kind for kind in KINDS if kind != "test-clients-in-training"]
        before = Audit((), (), tuple(NotChecked(kind, _ELSEWHERE) for kind in kinds))
    expected = config.make_scenario().expected
    of_clients, of_statistics = _who_trained(config, roll_call), _who_sent_statistics(roll_call)
    if line := (of_clients + of_statistics).expecting(expected).line():
        logger.warning("%s: see audit in %s", line, directory.path / "summary.json")
    return (of_clients + before + of_statistics).expecting(expected)


def _who_trained(config: RunConfig, roll_call: RollCall) -> Audit:
    evaluated = {config.evaluation.split} | ({"validation"} if config.evaluation.every else set())
    populations = {split: roll_call.population(split) for split in sorted(evaluated)}
    training = roll_call.population("train")
    if not clients_seen_in_training(populations, training).findings:
        return clients_seen_in_training(populations, training, config.rounds)
    rounds = range(1, config.rounds + 1)
    asked = {
        client
        for number in rounds
        for client in choose(config.seed, number, training, config.clients)
    }
    return clients_seen_in_training(populations, asked, config.rounds)


def _who_sent_statistics(roll_call: RollCall) -> Audit:
    training = roll_call.population("train")
    members = training if isinstance(training, range) else frozenset(training)
    others = tuple(client for client in roll_call.statistics_from if client not in members)
    if not others:
        return Audit()
    finding = Finding(
        "statistics-from-test-data",
        "leak",
        f"{len(others)} of {len(roll_call.statistics_from)} clients that sent statistics do not "
        "train, so inputs are normalised with statistics of their data",
        "let nodes answer the roll call with statistics of training clients only",
        others[:20],
    )
    return Audit((finding,))
