"""The systems of the atlas, each a file ``experiments/atlas/NAME.toml``."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.atlas.bands import Band

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments" / "atlas"


@dataclass(frozen=True)
class System:
    """One row of the atlas.

    Attributes:
        name: Of the file, and of its card.
        title: What stands in the map.
        scenario: Name in the catalogue.
        strategies: The methods beside the baselines that every comparison has.
        seeds: How many.
        equal: What all get alike: "rounds", "bytes", "flops"; None: their recipes.
        tune: Trials for each strategy, baselines included, to tune its settings on validation
            clients of a further seed; None: settings are those of the recipes. A system on which
            meta-learning helps has some: a gain over a recipe may be the recipe's fault.
        settings: As in a configuration file.
        null: Settings that leave nothing to learn; empty where there are none of the kind.
        bands: What was expected, before it was measured here.
    """

    name: str
    title: str
    scenario: str
    strategies: tuple[str, ...]
    seeds: int = 5
    equal: str | None = None
    tune: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    null: Mapping[str, Any] = field(default_factory=lambda: {"labels": "shuffled"})
    bands: tuple[Band, ...] = ()

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures beside the headline metric that bands are about."""
        return tuple(dict.fromkeys(band.figure for band in self.bands if band.figure))


def read_system(path: Path) -> System:
    """Read the file of a system.

    Raises:
        SystemExit: If it is not there or holds something else.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(System).validate_python({"name": path.stem} | table)
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        known = ", ".join(sorted(file.stem for file in EXPERIMENTS.glob("*.toml")))
        raise SystemExit(f"{path}: {error}\nSystems of the atlas: {known}") from error
