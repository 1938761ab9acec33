"""Draw what agents do before and after they adapt, from runs of the atlas.

    python -m benchmarks.acting [NAME ...] [--runs runs/atlas] [--out docs/figures]

The runs are those of `python -m benchmarks.atlas`, seed 0; that of half_circle, of PEARL, is in no
comparison, and is made if it is not there. Each picture becomes a file in the docs, and one beside
its runs, for their report. The systems with pictures are:
"""

from pathlib import Path

from benchmarks.acting import pictures
from benchmarks.acting.episodes import angles_of, growth_of, paths_of, rewards_by_pull, searches_of
from benchmarks.acting.models import model_of
from benchmarks.drawing import Picture, draw_named
from benchmarks.runs import finished_run
from fedmaml.config import resolve
from fedmaml.simulations.environments.one_link import OneLinkArm


def navigation(runs: Path, out: Path) -> None:
    """Draw trajectories before and after one step."""
    pictures.draw_paths(paths_of(model_of(runs / "navigation" / "maml" / "seed0")), out)


def half_circle(runs: Path, out: Path) -> None:
    """Draw the episodes in which clients look for a goal that is seen from near only."""
    run = runs / "half_circle" / "pearl" / "seed0"
    if not (run / "summary.json").is_file():
        finished_run(resolve({"scenario": "half_circle", "strategy": "pearl"}), run)
    pictures.draw_searches(searches_of(model_of(run)), out)


def arm(runs: Path, out: Path) -> None:
    """Draw the angle against time of light and heavy payloads."""
    angles = angles_of(model_of(runs / "arm" / "meta_sgd" / "seed0"))
    pictures.draw_angles(angles, OneLinkArm().seconds, out)


def bandits(runs: Path, out: Path) -> None:
    """Draw the reward of each pull beside Gittins and Thompson."""
    models = {"RL^2": model_of(runs / "bandits" / "rl2" / "seed0")}
    pictures.draw_pulls(rewards_by_pull(models), out)


def trading(runs: Path, out: Path) -> None:
    """Draw cumulative returns beside buy and hold."""
    run = runs / "trading" / "maml" / "seed0"
    bands = {"MAML": growth_of(run), "buy and hold": growth_of(run, "buy and hold")}
    pictures.draw_growth(bands, out)


DRAWN = {
    "navigation": Picture("trajectories before and after one step", navigation),
    "half_circle": Picture("where PEARL looks for a goal that is seen from near only", half_circle),
    "arm": Picture("the angle against time of light and heavy payloads", arm),
    "bandits": Picture("the reward of each pull beside Gittins and Thompson", bandits),
    "trading": Picture("cumulative returns beside buy and hold", trading),
}


if __name__ == "__main__":
    draw_named(__doc__, DRAWN)
