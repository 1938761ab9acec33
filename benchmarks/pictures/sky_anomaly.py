"""Stars in the plane in which ProtoNet's embedding of known stars spreads most."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from fedmaml.core.tasks import task_at
from fedmaml.report.canvas import FAINT, GREY, INK, SERIES
from fedmaml.simulations.systems.novelty import novelty


class Plane(NamedTuple):
    """Embedded stars in two directions, and how new they look.

    Attributes:
        archive: Known stars of the support, ``(stars, 2)``.
        prototypes: Means of its classes, ``(classes, 2)``.
        stars: Of the query, ``(stars, 2)``.
        new: Which of them are of no known class, ``(stars,)``.
        distance: To the nearest prototype, in the whole embedding, ``(stars,)``.
        share: Of the archive's variance that the plane shows.
    """

    archive: np.ndarray
    prototypes: np.ndarray
    stars: np.ndarray
    new: np.ndarray
    distance: np.ndarray
    share: float


def plane_of(model: Model, clients: Sequence[int]) -> Plane:
    """Return the archive and all queries of some test clients, by ProtoNet's embedding."""
    scenario = model.config.make_scenario()
    tasks = [task_at(model.tasks_of(scenario, [client]), 0) for client in clients]
    task = tasks[0]  # the archive is the same for all, in another order
    learner, theta = model.prepared.learner, model.meta["theta"]
    with torch.no_grad():
        known = learner.apply(theta, task.support.x).flatten(1).double()
        queries = torch.cat([each.query.x for each in tasks])
        stars = learner.apply(theta, queries).flatten(1).double()
        scores = torch.cat([novelty(model.predicts(each).double()) for each in tasks])
    y = task.support.y
    prototypes = torch.stack([known[y == kind].mean(0) for kind in y.unique()])
    middle = known.mean(0)
    _, values, directions = torch.linalg.svd(known - middle, full_matrices=False)
    first = directions[:2] * directions[:2].sum(1, keepdim=True).sign()  # signs are arbitrary
    new = torch.cat([each.query.y for each in tasks]) == int(y.max()) + 1
    return Plane(
        *(((each - middle) @ first.T).numpy() for each in (known, prototypes, stars)),
        new.numpy(),
        scores.clamp(min=0).sqrt().numpy(),
        float(values[:2].square().sum() / values.square().sum()),
    )


def draw(plane: Plane, path: Path) -> None:
    """Draw the plane, and beside it distances of known and new stars."""

    def paint(axes: Axes, beside: Axes) -> None:
        axes.plot(*plane.archive.T, ".", color=FAINT, markersize=4, label="archive")
        axes.plot(*plane.stars[~plane.new].T, ".", color=GREY, markersize=5, label="known class")
        axes.plot(*plane.stars[plane.new].T, "o", color=SERIES[1], fillstyle="none", markersize=7,
                  markeredgewidth=1.3, label="no known class")  # fmt: skip
        axes.plot(*plane.prototypes.T, "P", color=SERIES[0], markersize=9, markeredgecolor="white",
                  label="prototype")  # fmt: skip
        axes.set_title(f"two directions, {plane.share:.0%} of the archive's variance")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=4, columnspacing=1)
        top = float(np.quantile(plane.distance, 0.99))
        edges = np.linspace(0, top, 16)
        for which, colour, label in (
            (~plane.new, GREY, "known class"), (plane.new, SERIES[1], "no known class"),
        ):  # fmt: skip
            shown = plane.distance[which].clip(0, top)
            weights = np.full(len(shown), 1 / len(shown))
            beside.hist(shown, edges, weights=weights, histtype="step", linewidth=2, color=colour,
                        label=label)  # fmt: skip
            beside.axvline(float(np.median(plane.distance[which])), color=colour, linestyle=":")
        beside.set_xlabel("distance to the nearest prototype; dotted: medians", color=INK)
        beside.set_title("share of the stars")
        beside.legend()

    save(path, (10.5, 4.6), 2, paint)


def picture(runs: Path, out: Path) -> None:
    """Draw the stars of all parts of the test, rare ones among them."""
    model = model_of(runs / "sky_anomaly" / "protonet" / "seed0")
    scenario = model.config.make_scenario()
    clients = [each for each in scenario.clients()["test"] if not scenario.family(each)]
    draw(plane_of(model, clients), out)
