"""The configuration of a run: settings by dotted key, checked before anything starts.

Settings come from four places, later ones winning: the defaults of strategy and scenario, the
scenario's recipe for the strategy, a TOML file, the command line. The keys are

    scenario, strategy, rounds, seed, ...      fields of `RunConfig`
    evaluation.*, aggregation.*                of `Evaluation` and `Aggregation`
    compression.*                              of `core.compression.Compression`
    task.*                                     fields of the scenario, e.g. task.cross
    inner.*, outer.*, mu, ...                  fields of the strategy
"""

from fedmaml.config.flat import Flat, flatten_table, load_toml, parse_assignment
from fedmaml.config.flower import (
    FLOWER_KEYS,
    OWN_CODE,
    allow_own_code,
    from_run_config,
    to_run_config,
)
from fedmaml.config.keys import check_scenario, known_keys, nearest
from fedmaml.config.resolving import resolve
from fedmaml.config.settings import Aggregation, Evaluation, RunConfig, add_own

__all__ = [
    "FLOWER_KEYS",
    "OWN_CODE",
    "Aggregation",
    "Evaluation",
    "Flat",
    "RunConfig",
    "add_own",
    "allow_own_code",
    "check_scenario",
    "flatten_table",
    "from_run_config",
    "known_keys",
    "load_toml",
    "nearest",
    "parse_assignment",
    "resolve",
    "to_run_config",
]
