"""Blood cells of one patient, and how much SNAIL's last attention reads of each for a new cell."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.acting.models import Model, model_of
from benchmarks.drawing import save
from benchmarks.pictures.runs import median_client
from fedmaml.core.tasks import Task, task_at
from fedmaml.report.canvas import GREY, SERIES
from fedmaml.simulations.scenarios.malaria import CLASSES, Malaria

SYSTEMS = {
    "malaria": "infected is the same class for everybody",
    "malaria_flipped": "only the support says which class it is",
}
KINDS = ("healthy", "infected")


class Read(NamedTuple):
    """What a model reads of a support for one query cell of each kind.

    Attributes:
        support: Images, ``(cells, 14, 14)``, healthy ones first.
        queries: Images, ``(2, 14, 14)``.
        weights: Of the support in the last attention, by system, each ``(2, cells)``.
        infected: Probability that a query is infected, by system, each ``(2,)``.
    """

    support: np.ndarray
    queries: np.ndarray
    weights: Mapping[str, np.ndarray]
    infected: Mapping[str, np.ndarray]


class _Softmax(TorchFunctionMode):
    """Keeps the results of all `Tensor.softmax`, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") == "softmax":
            self.found.append(result.detach())
        return result


def last_attention(model: Model, task: Task) -> tuple[Tensor, Tensor]:
    """Return SNAIL's predictions and the last attention's weights ``(queries, support)``.

    What is missing to 1 is the query's weight of itself.
    """
    with _Softmax() as attention:
        logits = model.predicts(task)
    return logits, attention.found[-1][:, : len(task.support.y)]


def read_by(models: Mapping[str, Model], client: int) -> Read:
    """Return what models of both systems read for the first query cell of each kind."""
    weights, infected = {}, {}
    for name, model in models.items():
        scenario = model.config.make_scenario()
        assert isinstance(scenario, Malaria)
        task = task_at(model.tasks_of(scenario, [client]), 0)
        plain = task_at(model.tasks_of(replace(scenario, flip=False), [client]), 0)
        first = [int((plain.query.y == kind).nonzero()[0, 0]) for kind in range(CLASSES)]
        logits, read = last_attention(model, task)
        says = int(task.query.y[first[1]])  # the class that infected cells have in this task
        weights[name] = read[first].numpy()
        infected[name] = logits.softmax(-1)[first, says].numpy()
    return Read(plain.support.x[:, 0].numpy(), plain.query.x[first, 0].numpy(), weights, infected)


def draw(read: Read, path: Path) -> None:
    """Draw weights over the support's cells, one panel for each query."""
    lowest, highest = (float(each) for each in np.quantile(read.support, [0.005, 0.995]))
    top = 1.35 * max(float(each.max()) for each in read.weights.values())
    cells = len(read.support)

    def show(axes: Axes, image: np.ndarray, place: tuple[float, float, float, float]) -> None:
        inset = axes.inset_axes(place, transform=axes.transData)
        inset.imshow(image, cmap="gray", vmin=lowest, vmax=highest)
        inset.axis("off")

    def paint(*panels: Axes) -> None:
        for query, axes in enumerate(panels):
            for place, (name, weights) in enumerate(read.weights.items()):
                label = f"{SYSTEMS[name]}: p(infected) = {read.infected[name][query]:.2f}"
                at = np.arange(cells) + 0.36 * place - 0.18
                axes.bar(at, weights[query], 0.34, color=SERIES[place], label=label)
            for cell, image in enumerate(read.support):
                show(axes, image, (cell - 0.46, -0.26 * top, 0.92, 0.24 * top))
            half = cells / CLASSES
            for kind, word in enumerate(KINDS):
                axes.text(half * (kind + 0.5) - 0.5, -0.33 * top, f"support: {word}", ha="center")
            axes.plot([half - 0.5] * 2, [-0.3 * top, 0.7 * top], ":", color=GREY, linewidth=1)
            axes.axhline(0, color=GREY, linewidth=1)
            show(axes, read.queries[query], (half - 0.96, 0.74 * top, 0.92, 0.24 * top))
            axes.text(half + 0.1, 0.86 * top, f"query: {KINDS[query]}", va="center")
            axes.set_ylim(-0.36 * top, top)
            axes.set_xlim(-0.6, cells - 0.4)
            axes.set_xticks([])
            axes.set_yticks(np.arange(0, 0.75 * top, 0.1))
            axes.spines["bottom"].set_visible(False)
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
        panels[0].set_ylabel("weight in SNAIL's last attention")

    save(path, (11.5, 4.2), 2, paint, sharey=True)


def picture(runs: Path, out: Path) -> None:
    """Draw the patient for whom SNAIL is as good as for the median one, without flipping."""
    folders = {name: runs / name / "snail" / "seed0" for name in SYSTEMS}
    models = {name: model_of(folder) for name, folder in folders.items()}
    draw(read_by(models, median_client(folders["malaria"])), out)
