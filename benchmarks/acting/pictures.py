"""Drawings of episodes as SVG files for the cards of the atlas: equal bytes for equal runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from benchmarks.acting.episodes import MASSES, TARGET, Band, Paths, Search
from benchmarks.drawing import save
from fedmaml.report.canvas import FAINT, GREY, INK, SERIES
from fedmaml.simulations.scenarios.half_circle import NEAR


class Plane(NamedTuple):
    """Strings in the plane of their two properties.

    Attributes:
        target: ``(2,)``: logp and mass.
        batches: Label -> properties of the strings of a batch, ``(strings, 2)``.
    """

    target: np.ndarray
    batches: Mapping[str, np.ndarray]


def draw_paths(clients: Sequence[Paths], path: Path) -> None:
    """Draw episodes before and after one step, one colour for each goal."""

    def paint(*panels: Axes) -> None:
        for axes, stage in zip(panels, ("before", "after"), strict=True):
            for client, colour in zip(clients, SERIES, strict=False):
                for places in getattr(client, stage):
                    way = np.concatenate([[[0, 0]], places])
                    axes.plot(way[:, 0], way[:, 1], color=colour, linewidth=0.9, alpha=0.7)
                axes.plot(*client.goal, "*", color=colour, markersize=13, markeredgecolor=INK,
                          markeredgewidth=0.6, zorder=4)  # fmt: skip
            axes.plot(0, 0, "o", color=INK, markersize=4, zorder=4)
            axes.set_aspect("equal")
            axes.set_xlim(-0.75, 0.75)
            axes.set_ylim(-0.75, 0.75)
            axes.set_title("before adaptation" if stage == "before" else "after one step")

    save(path, (8.0, 4.2), 2, paint)


def draw_searches(clients: Sequence[Search], path: Path) -> None:
    """Draw the episodes of clients that look for a goal, the later the darker."""

    def paint(*panels: Axes) -> None:
        for axes, client in zip(panels, clients, strict=True):
            shades = mpl.colormaps["viridis_r"](np.linspace(0.05, 1, len(client.places)))
            for number, (places, shade) in enumerate(zip(client.places, shades, strict=True), 1):
                way = np.concatenate([[[0, 0]], places])
                axes.plot(way[:, 0], way[:, 1], color=shade, linewidth=1.2, label=str(number))
            angle = np.linspace(0, np.pi, 60)
            axes.plot(np.cos(angle), np.sin(angle), color=FAINT, linewidth=1, zorder=0)
            axes.add_patch(Circle(client.goal, NEAR, fill=False, color=GREY, linestyle=":"))
            axes.plot(*client.goal, "*", color=SERIES[1], markersize=11, markeredgecolor=INK,
                      markeredgewidth=0.6, zorder=4)  # fmt: skip
            axes.set_aspect("equal")
            axes.set_xlim(-1.45, 1.45)
            axes.set_ylim(-0.6, 1.45)
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title="episode")

    save(path, (11.0, 2.4), len(clients), paint, sharey=True)


def draw_angles(angles: Mapping[str, np.ndarray], seconds: float, path: Path) -> None:
    """Draw the angle of arms against time before and after adapting."""

    def paint(*panels: Axes) -> None:
        for stage, axes in enumerate(panels):
            for (name, values), colour in zip(angles.items(), SERIES, strict=False):
                time = seconds * np.arange(1, values.shape[1] + 1)
                axes.plot(time, values[stage], color=colour, label=f"{name}, {MASSES[name]} kg")
            axes.axhline(TARGET, color=INK, linestyle="--", linewidth=1, label="target")
            axes.set_xlabel("time [s]")
            axes.set_title("after adaptation" if stage else "before adaptation")
        panels[0].set_ylabel("angle [rad]")
        panels[1].legend(loc="lower right")

    save(path, (8.0, 3.4), 2, paint, sharey=True)


def draw_pulls(rewards: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw mean rewards against the number of the pull."""

    def paint(axes: Axes) -> None:
        rules = {
            "Gittins and Whittle index": "-", "Thompson": "--", "UCB1": ":", "best arm": "-.",
            "largest posterior mean": (0, (7, 1.5, 1, 1.5, 1, 1.5)),
        }  # fmt: skip
        colours = iter(SERIES)
        for name, values in rewards.items():
            pull = np.arange(1, len(values) + 1)
            if name in rules:
                style: dict[str, Any] = {"color": INK if rules[name] == "-" else GREY}
                style |= {"linestyle": rules[name]}
            else:
                style = {"color": next(colours), "linewidth": 2.2}
            axes.plot(pull, values, label=f"{name} ({values.sum():.2f})", **style)
        axes.set_xlabel("pull")
        axes.set_ylabel("mean reward")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title="reward of a trial")

    save(path, (8.0, 3.6), 1, paint)


def draw_growth(bands: Mapping[str, Band], path: Path) -> None:
    """Draw cumulative returns with their 95 % bands against weeks."""

    def paint(axes: Axes) -> None:
        for (name, band), colour in zip(bands.items(), SERIES, strict=False):
            week = np.arange(1, len(band.mean) + 1)
            axes.fill_between(week, band.low, band.high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(week, band.mean, color=colour, label=name)
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xlabel("week of trading since 2016-02-08")
        axes.set_ylabel("cumulative return [%]")
        axes.legend(loc="lower left")

    save(path, (8.0, 3.6), 1, paint)


def draw_design(plane: Plane, curves: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw how a client's batches close in on its target, and the best so far of all clients."""

    def paint(places: Axes, progress: Axes) -> None:
        for (label, values), marker, colour in zip(
            plane.batches.items(), "os^", SERIES, strict=False
        ):
            places.plot(*values.T, marker, color=colour, label=label, markersize=6, alpha=0.75)
        places.plot(*plane.target, "*", color=INK, markersize=15, label="target")
        places.set_xlabel("logp")
        places.set_ylabel("mass")
        places.set_title("one client's strings")
        places.legend()
        for (label, values), colour in zip(curves.items(), SERIES, strict=False):
            progress.plot(np.arange(1, len(values) + 1), values, color=colour, label=label)
        progress.axhline(1, color=INK, linestyle="--", linewidth=1, label="the hidden string")
        progress.set_xlabel("strings bought")
        progress.set_ylabel("best reward so far")
        progress.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))

    save(path, (10.5, 3.8), 2, paint)


def draw_trials(curves: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw regret against trials, of which the first six were random; one line a method."""

    def paint(regret: Axes) -> None:
        for place, (label, values) in enumerate(curves.items()):
            colour = SERIES[place % len(SERIES)]
            style = "-" if place < len(SERIES) else "--"
            regret.plot(np.arange(6, 6 + len(values)), values, style, color=colour, label=label)
        regret.set_xlabel("trials")
        regret.set_ylabel("regret of the best so far")
        regret.set_ylim(bottom=0)
        regret.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))

    save(path, (8.0, 3.8), 1, paint)
