"""Figures: numbers over all evaluated clients and their groups, with intervals of their own.

A metric is one client's; a figure is the evaluation's: the worst tenth of the clients, the gap
between groups, an error pooled over all examples, a ratio of returns over days. A scenario
declares figures and labels its clients in a few lines:

    def figures(self) -> tuple[Figure, ...]:
        return (worst_decile("accuracy"), gap("accuracy", "sex"))

    def groups(self, client: int) -> dict[str, str]:
        return {"sex": "f" if client % 2 else "m"}

Their intervals are made in `core.resampling`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedmaml.core.metrics import Metric
from fedmaml.core.records import Better

CLIENT = "client"
"""The resampled unit unless a figure declares another."""


@dataclass(frozen=True)
class Clients:
    """The evaluated clients of one run.

    ``clients["accuracy"]`` is ``(clients,)``; a metric of cells is ``(clients, cells)``, one of its
    cells, ``clients["confusion/tp"]``, is ``(clients,)``. Undefined values are NaN.

    Attributes:
        numbers: Client numbers, ``(clients,)``.
        values: Metric -> ``(clients,)`` or ``(clients, cells)``.
        groups: Label -> the group of each client, ``(clients,)``: positions in ``names``.
        names: Label -> names of its groups.
        cells: Metric -> names of its cells; metrics without cells are left out.
    """

    numbers: np.ndarray
    values: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray]
    names: Mapping[str, tuple[str, ...]]
    cells: Mapping[str, tuple[str, ...]]

    def __getitem__(self, column: str) -> np.ndarray:
        """Return the values of a metric or of one of its cells."""
        metric, _, cell = column.partition("/")
        if metric not in self.values or (cell and cell not in self.cells.get(metric, ())):
            raise KeyError(f"there is no metric or cell {column!r}; there are {list(self.values)}")
        values = self.values[metric]
        return values[:, self.cells[metric].index(cell)] if cell else values

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, label: str) -> dict[str, "Clients"]:
        """Return the clients of each group of a label, by its name."""
        rows = self.rows(label)
        return {self.names[label][position]: self.take(rows[position]) for position in rows}

    def rows(self, label: str) -> dict[int, np.ndarray]:
        """Return the positions of the clients of each group that has some."""
        groups = self.group(label)
        found = {group: np.flatnonzero(groups == group) for group in range(len(self.names[label]))}
        return {group: rows for group, rows in found.items() if len(rows)}

    def group(self, label: str) -> np.ndarray:
        """Return the group of each client, as positions in ``names[label]``."""
        if label not in self.groups:
            raise KeyError(f"clients have no label {label!r}; they have {list(self.groups)}")
        return self.groups[label]

    def sums(self, values: np.ndarray, label: str) -> np.ndarray:
        """Return the sum of the defined values of each group, ``(groups,)``."""
        known = ~np.isnan(values)
        count = len(self.names[label])
        return np.bincount(self.group(label)[known], values[known], minlength=count)

    def means(self, column: str, label: str) -> np.ndarray:
        """Return the mean of each group that has a defined value; NaN alone if there is none."""
        values = self[column]
        sums, counts = (
            self.sums(values, label),
            self.sums(np.where(np.isnan(values), np.nan, 1.0), label),
        )
        return sums[counts > 0] / counts[counts > 0] if counts.any() else np.array([math.nan])

    def take(self, rows: np.ndarray) -> "Clients":
        """Return clients by position; one may be taken several times."""
        return Clients(
            self.numbers[rows],
            {name: values[rows] for name, values in self.values.items()},
            {label: groups[rows] for label, groups in self.groups.items()},
            self.names,
            self.cells,
        )

    def take_cells(self, metric: str, positions: np.ndarray) -> "Clients":
        """Return all clients with other cells of one metric, by position."""
        return replace(self, values={**self.values, metric: self.values[metric][:, positions]})


def clients_table(
    numbers: Sequence[int],
    columns: Mapping[str, Sequence[float]],
    metrics: Sequence[Metric],
    groups: Sequence[Mapping[str, str]],
    stage: str = "after",
) -> Clients:
    """Return clients from columns ``"<metric>:<stage>"`` and ``"<metric>/<cell>:<stage>"``.

    Args:
        numbers: Client numbers.
        columns: Values of the clients by column; NaN for a stage that a strategy has not (ProtoNet
            predicts nothing before it adapts).
        metrics: The metrics of the columns.
        groups: Label -> group, of each client; a client without a label is in group "".
        stage: Stage of adaptation, e.g. "after".
    """
    absent = [math.nan] * len(numbers)
    arrays = {
        metric.name: np.array(
            [columns.get(f"{column}:{stage}", absent) for column in metric.columns]
        ).T
        for metric in metrics
    }
    labels = {
        label: [str(each.get(label, "")) for each in groups]
        for label in dict.fromkeys(label for each in groups for label in each)
    }
    names = {label: tuple(sorted(set(found))) for label, found in labels.items()}
    return Clients(
        np.asarray(numbers),
        {m.name: arrays[m.name] if m.cells else arrays[m.name][:, 0] for m in metrics},
        {
            label: np.array([names[label].index(group) for group in found], dtype=np.intp)
            for label, found in labels.items()
        },
        names,
        {metric.name: metric.cells for metric in metrics if metric.cells},
    )


@dataclass(frozen=True)
class Figure:
    """A number over all evaluated clients.

    Attributes:
        name: As it appears in tables and files.
        unit: Unit of the value; "1" for a fraction.
        better: Whether larger or smaller values are better.
        function: Clients -> number; NaN where they do not define it.
        resampled: What the interval resamples: "client", or a label whose groups are drawn whole,
            or a metric whose cells follow each other in time.
        within: Label in whose groups clients are resampled apart, so that none is ever missing;
            "" for none.
        block: Neighbouring cells that are drawn together; as many as depend on each other.
        share: Fraction of the units that the value rests on, e.g. .1 for the worst tenth; an
            interval needs three of them.
        least: Smallest possible value, e.g. 0 for a gap; no interval reaches below.
    """

    name: str
    unit: str
    better: Better
    function: Callable[[Clients], float]
    resampled: str = CLIENT
    within: str = ""
    block: int = 1
    share: float = 1.0
    least: float = -math.inf

    def __call__(self, clients: Clients) -> float:
        """Return the value; NaN if there are no clients."""
        return float(self.function(clients)) if len(clients) else math.nan


def of_family(
    declared: Sequence[Figure], metrics: Sequence[Metric], family: str
) -> tuple[Figure, ...]:
    """Return the figures of a family of clients: those declared; before them the metrics' means.

    The scenario's own clients, family "", have their means elsewhere.
    """
    means = [mean(metric) for metric in metrics if not metric.cells and metric.better != "neither"]
    return (*(means if family else ()), *declared)


# --- ready-made -------------------------------------------------------------------------------


def mean(metric: Metric, resampled: str = CLIENT) -> Figure:
    """Return the mean over clients of a metric, undefined values left out."""
    return Figure(
        metric.name, metric.unit, metric.better, lambda c: _mean(c[metric.name]), resampled
    )


def worst_decile(metric: Metric) -> Figure:
    """Return the mean of the worst tenth of the clients."""
    sign = 1 if metric.better == "higher" else -1

    def function(clients: Clients) -> float:
        values = np.sort(sign * _known(clients[metric.name]))
        return sign * _mean(values[: max(1, round(0.1 * len(values)))])

    return Figure(f"worst decile of {metric.name}", metric.unit, metric.better, function, share=0.1)


def worst_group(metric: Metric, label: str) -> Figure:
    """Return the mean of the worst group."""
    worst = min if metric.better == "higher" else max

    def function(clients: Clients) -> float:
        return float(worst(clients.means(metric.name, label)))

    name = f"{metric.name} of the worst {label}"
    return Figure(name, metric.unit, metric.better, function, within=label)


def gap(metric: Metric, label: str) -> Figure:
    """Return the largest minus the smallest mean of the groups of a label."""

    def function(clients: Clients) -> float:
        return float(np.ptp(clients.means(metric.name, label)))

    return Figure(f"gap of {metric.name} by {label}", metric.unit, "lower", function, within=label,
                  least=0.0)  # fmt: skip


def equalised_odds_gap(label: str, confusion: str = "confusion") -> Figure:
    """Return the largest difference between groups in true or in false positive rate.

    Of the clients' confusion tables, summed in each group. Hardt, Price, Srebro. Equality of
    Opportunity in Supervised Learning. NeurIPS 2016.

    Args:
        label: The label whose groups are compared.
        confusion: Metric with the cells "tp", "fp", "fn" and "tn".
    """

    def function(clients: Clients) -> float:
        tp, fp, fn, tn = (
            clients.sums(clients[f"{confusion}/{cell}"], label) for cell in ("tp", "fp", "fn", "tn")
        )
        present = tp + fp + fn + tn > 0
        with np.errstate(invalid="ignore"):  # a group without positives has no such rate: NaN
            rates = np.stack([tp / (tp + fn), fp / (fp + tn)], 1)[present]
        return float(np.ptp(rates, axis=0).max()) if len(rates) else math.nan

    return Figure(f"equalised odds gap by {label}", "1", "lower", function, within=label, least=0.0)


def pooled_rmse(rmse: Metric, weight: str = "examples") -> Figure:
    """Return the root mean squared error over all examples of all clients.

    Args:
        rmse: The clients' own root mean squared errors.
        weight: Metric that holds how many examples each client has, `metrics.EXAMPLES`.
    """

    def function(clients: Clients) -> float:
        errors, count = clients[rmse.name], clients[weight]
        known = ~np.isnan(errors)
        return math.sqrt(_ratio((count * errors**2)[known].sum(), count[known].sum()))

    return Figure(f"pooled {rmse.name}", rmse.unit, "lower", function, least=0.0)


def sharpe_ratio(returns: Metric, periods: int = 252, block: int = 5) -> Figure:
    """Return mean over standard deviation of the clients' joint returns, per year.

    Args:
        returns: Its cells are returns of successive periods; clients count alike.
        periods: In a year.
        block: Periods that are resampled together.
    """

    def function(clients: Clients) -> float:
        joint = np.nanmean(clients[returns.name], axis=0)
        return _ratio(joint.mean(), joint.std(ddof=1)) * math.sqrt(periods)

    return Figure("Sharpe ratio", "1", "higher", function, resampled=returns.name, block=block)


def retained(now: str, then: str) -> Figure:
    """Return the retained part of a metric: mean of one column over that of another.

    Args:
        now: Column after further tasks, e.g. "accuracy_by_stage/now".
        then: Column right after learning, e.g. "accuracy_by_stage/then".
    """
    return Figure(
        f"retained {now.partition('/')[0]}", "1", "higher",
        lambda c: _ratio(_mean(c[now]), _mean(c[then])),
    )  # fmt: skip


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def _mean(values: np.ndarray) -> float:
    known = _known(values)
    return float(known.mean()) if len(known) else math.nan


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else math.nan
