"""One graph that nobody trained on, its nodes named right or wrong before and after adapting."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import median_client
from fedmaml.core.tasks import task_at
from fedmaml.report.canvas import FAINT, INK, SERIES
from fedmaml.simulations.systems import graphs

_MARKERS = "os^Dv<>"
_LAYOUT = 0  # its seed


class Graph(NamedTuple):
    """A graph and what a model calls its nodes.

    Attributes:
        edges: Pairs of nodes, ``(edges, 2)``.
        names: Of the nodes, ``(nodes,)``.
        named: Which names are known, ``(nodes,)``.
        right: Which nodes are named right before and after adaptation, ``(2, nodes)``.
    """

    edges: np.ndarray
    names: np.ndarray
    named: np.ndarray
    right: np.ndarray


def graph_of(model: Model, client: int) -> Graph:
    """Return the graph of a test client and its names before and after adaptation."""
    task = task_at(model.tasks_of(model.config.make_scenario(), [client]), 0)
    support, query = task.support.y[0], task.query.y[0]
    named = support != graphs.NONE
    names = support.where(named, query)
    edges = (task.query.x["near"][0].triu(1) > 0).nonzero()
    calls = [model.predicts(task, steps)[0].argmax(-1) == names for steps in (0, None)]
    right = np.stack([each.numpy() for each in calls])
    return Graph(edges.numpy(), names.numpy(), named.numpy(), right)


def places_of(graph: Graph) -> np.ndarray:
    """Return places of the nodes in the plane, drawn together by edges, ``(nodes, 2)``."""
    import networkx  # PyTorch brings it

    drawn = networkx.Graph()
    drawn.add_nodes_from(range(len(graph.names)))
    drawn.add_edges_from(graph.edges.tolist())
    places = networkx.spring_layout(drawn, seed=_LAYOUT, iterations=200)
    return np.array([places[node] for node in range(len(graph.names))])


def draw(graph: Graph, path: Path) -> None:
    """Draw the graph twice; the form of a node is its name, a ring says that it is known."""
    places = places_of(graph)
    between = np.full((len(graph.edges), 1, 2), np.nan)
    ways = np.concatenate([places[graph.edges], between], 1).reshape(-1, 2)
    good, bad = SERIES[0], SERIES[1]

    def paint(*panels: Axes) -> None:
        for axes, stage in zip(panels, (0, 1), strict=True):
            axes.plot(*ways.T, color=FAINT, linewidth=0.8, zorder=1)
            for name in np.unique(graph.names):
                for right, colour in ((True, good), (False, bad)):
                    rows = (graph.names == name) & (graph.right[stage] == right)
                    axes.plot(*places[rows].T, _MARKERS[name % len(_MARKERS)], color=colour,
                              markerfacecolor=colour if right else "white", markersize=6,
                              markeredgewidth=1.4, zorder=3)  # fmt: skip
            axes.plot(*places[graph.named].T, "o", color=INK, markersize=15, fillstyle="none",
                      markeredgewidth=1.6, zorder=2)  # fmt: skip
            share = graph.right[stage][~graph.named].mean()
            title = "after" if stage else "before"
            axes.set_title(f"{title} adaptation: {share:.0%} of the other nodes right")
            axes.set_aspect("equal")
            axes.axis("off")
        panels[1].legend(handles=_legend(good, bad), loc="center left", bbox_to_anchor=(1, 0.5))

    save(path, (10.5, 4.6), 2, paint)


def _legend(good: str, bad: str) -> list[Line2D]:
    plain: dict[str, Any] = {"linestyle": "", "markersize": 7}
    return [
        Line2D([], [], marker="o", color=good, label="named right", **plain),
        Line2D([], [], marker="o", color=bad, markerfacecolor="white", label="named wrong",
               markeredgewidth=1.4, **plain),
        Line2D([], [], marker="o", color=INK, fillstyle="none", label="its name is known",
               markeredgewidth=1.6, linestyle="", markersize=13),
        Line2D([], [], marker="^", color=FAINT, label="form: the name", **plain),
    ]  # fmt: skip


def picture(runs: Path, out: Path) -> None:
    """Draw the graph on which MAML is as good as on the median one."""
    run = runs / "graph_nodes" / "maml" / "seed0"
    draw(graph_of(model_of(run), median_client(run)), out)
