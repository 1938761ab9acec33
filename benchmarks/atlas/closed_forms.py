"""Draw the two systems of the atlas whose figures are all known exactly, and write their tables.

    python -m benchmarks.atlas.closed_forms [--json docs/data/closed_forms.json]

Nothing is trained here: tests hold runs to the same formulas.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from benchmarks.drawing import FIGURES, save
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.core import seeding
from fedmaml.core.inner_loop import GradientSteps
from fedmaml.core.kernels import KernelSpec
from fedmaml.report.canvas import FAINT, GREY, INK, SERIES
from fedmaml.simulations.scenarios import BiasVariance, Quadratic
from fedmaml.simulations.scenarios.bias_variance import coefficients
from fedmaml.strategies import CATALOGUE
from fedmaml.strategies.base import kernel_spec

PLANE = Quadratic(dimension=2)
LR, STEPS = 0.4, 5
STARTS = {
    "consensus: FedAvg, 1 step": ("fedavg", 1),
    "hub: MAML, 1 step": ("maml", 1),
    f"MAML, {STEPS} steps": ("maml", STEPS),
    f"FOMAML, {STEPS} steps": ("fomaml", STEPS),
    f"Reptile, {STEPS} steps": ("reptile", STEPS),
}
SMALL = BiasVariance(mean=0.0)
ROUNDS = (1, 2, 5, 10)
SHOTS = (2, 3, 5, 7, 10, 14, 20, 28, 40)
ERRORS = (11.0, 7.0), (2, 3)
"""Size and panels of the drawing of errors."""

# --- quadratic ----------------------------------------------------------------------------------


def starts() -> dict[str, torch.Tensor]:
    """Return where each strategy ends, by its closed form, as points of the plane."""
    found = {}
    for name, (strategy, steps) in STARTS.items():
        spec = kernel_spec(CATALOGUE[strategy](inner=GradientSteps(lr=LR, steps=steps)))
        point = PLANE.closed_form(spec) if isinstance(spec, KernelSpec) else None
        if point is None:
            raise ValueError(f"{strategy} has no closed form on quadratic tasks")
        found[name] = point
    return found


def loss_after(start: torch.Tensor, steps: int) -> float:
    """Return the training clients' mean loss after gradient steps from a start."""
    losses = []
    for client in PLANE.clients()["train"]:
        curvature, centre = PLANE.parameters_of(client)
        step = torch.eye(2, dtype=torch.float64) - LR * curvature
        left = torch.linalg.matrix_power(step, steps) @ (start - centre)
        losses.append(float(left @ curvature @ left) / 2)
    return sum(losses) / len(losses)


def table_of_starts() -> Table:
    """Return the loss after 0, 1 and 5 steps from each start."""
    columns = {
        "start": ["{name}"], "loss before": ["{after0:.4f}"], "after 1 step": ["{after1:.4f}"],
        f"after {STEPS} steps": [f"{{after{STEPS}:.4f}}"],
    }  # fmt: skip
    rows = {
        name: {f"after{steps}": loss_after(start, steps) for steps in (0, 1, STEPS)}
        for name, start in starts().items()
    }
    return Table(columns, rows)


def draw_plane(axes: Axes, beside: Axes) -> None:
    """Draw the clients' losses and the starts; beside, what steps from each start are worth."""
    for client in PLANE.clients()["train"]:
        curvature, centre = PLANE.parameters_of(client)
        values, vectors = np.linalg.eigh(curvature.numpy())
        angle = float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))
        size = 0.5 / np.sqrt(values)
        axes.add_patch(
            Ellipse(tuple(centre.tolist()), *size, angle=angle, fill=False, edgecolor=GREY)
        )
        axes.plot(*centre.tolist(), ".", color=GREY)
    losses = {
        name: [loss_after(start, steps) for steps in range(STEPS + 1)]
        for name, start in starts().items()
    }
    least = [min(each) for each in zip(*losses.values(), strict=True)]
    for at, (name, start) in enumerate(starts().items()):
        colour, marker = SERIES[at], "osD^v"[at]
        axes.plot(*start.tolist(), marker, color=colour, label=name)
        over = [loss / best for loss, best in zip(losses[name], least, strict=True)]
        beside.plot(range(STEPS + 1), over, marker=marker, color=colour)
    axes.set_aspect("equal")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=1, frameon=False)
    axes.set_title("grey: clients, a contour of each one's loss")
    beside.set_xlabel(f"steps of {LR} from the start")
    beside.set_title("mean loss, over the least of all starts")


# --- bias and variance ----------------------------------------------------------------------------


def best_rate(steps: int) -> float:
    """Return the rate with the least error, which MAML learns."""
    return _least(lambda lr: SMALL.expected_error(steps, lr), 1.2)


def rate_of_fomaml(steps: int) -> float:
    """Return where FOMAML's learned rate stays: b D + v s^2 = a1 D."""
    far = SMALL.dimension * SMALL.spread**2

    def slope(lr: float) -> float:
        b, a1, v = coefficients(SMALL.shots, SMALL.dimension, steps, Fraction(lr))
        return float(b - a1) * far + float(v) * SMALL.noise**2

    low, high = 1e-3, 1.2
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return low


def _least(function: Callable[[float], float], high: float) -> float:
    """Return where a function of one minimum on (0, high) is least, by golden section."""
    low, ratio = 0.0, (5**0.5 - 1) / 2
    while high - low > 1e-9:
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, second) if function(first) < function(second) else (first, high)
    return (low + high) / 2


def table_of_rates() -> Table:
    """Return for each number of steps the best rate and FOMAML's, and the error at both."""
    columns = {
        "steps": ["{name}"], "best rate": ["{rate:.4f}"], "error there": ["{error:.4f}"],
        "FOMAML's rate": ["{first_order:.4f}"], "error there ": ["{first_order_error:.4f}"],
    }  # fmt: skip
    rows = {}
    for steps in ROUNDS:
        rate, other = best_rate(steps), rate_of_fomaml(steps)
        rows[str(steps)] = {
            "rate": rate, "error": SMALL.expected_error(steps, rate),
            "first_order": other, "first_order_error": SMALL.expected_error(steps, other),
        }  # fmt: skip
    return Table(columns, rows)


def errors_by_shots(steps: int) -> list[float]:
    """Return the error at the best rate for each of `SHOTS`."""
    found = []
    for shots in SHOTS:
        error = partial(replace(SMALL, shots=shots).expected_error, steps)
        found.append(error(_least(error, 1.2)))
    return found


def error_of_ridge(shots: int, designs: int = 4000) -> float:
    """Return the error of ridge regression by the true spread, the least that there is.

    s^2 + E tr((X'X / s^2 + I / tau^2)^-1), a mean over drawn designs.
    """
    x = seeding.normal(seeding.key(0, "designs"), range(designs), shots, SMALL.dimension)
    precision = x.mT @ x / SMALL.noise**2 + torch.eye(SMALL.dimension) / SMALL.spread**2
    return SMALL.noise**2 + float((1 / torch.linalg.eigvalsh(precision)).sum(1).mean())


def error_of_least_squares(shots: int) -> float:
    """Return s^2 + s^2 d / (n - d - 1); infinite where n < d + 2."""
    rest = shots - SMALL.dimension - 1
    return SMALL.noise**2 * (1 + SMALL.dimension / rest) if rest > 0 else float("inf")


def draw_errors(axes: Axes, by_shots: Axes, *parts: Axes) -> None:
    """Draw the error against the rate and against shots; then its three parts, by steps."""
    rates = np.linspace(0, 0.7, 71)
    for steps, colour in zip(ROUNDS, SERIES, strict=False):
        errors = [SMALL.expected_error(steps, float(lr)) for lr in rates]
        label = f"{steps} step{'s' * (steps > 1)}"
        axes.plot(rates, errors, color=colour, label=label)
        for rate, marker in ((best_rate(steps), "o"), (rate_of_fomaml(steps), "x")):
            axes.plot([rate], [SMALL.expected_error(steps, rate)], marker, color=colour)
        by_shots.plot(SHOTS, errors_by_shots(steps), color=colour)
    axes.set_ylim(0, SMALL.expected_error(1, 0.0) * 1.1)
    axes.set_xlabel("inner rate")
    axes.set_title("error (o: MAML's rate, x: FOMAML's)")
    axes.legend(frameon=False)
    by_shots.plot(SHOTS, [error_of_ridge(shots) for shots in SHOTS], color=INK, linestyle=":",
                  label="Bayes")  # fmt: skip
    by_shots.plot(SHOTS, [error_of_least_squares(shots) for shots in SHOTS], color=GREY,
                  linestyle="--", label="least squares")  # fmt: skip
    by_shots.axhline(SMALL.noise**2, color=FAINT, label="noise of the example")
    by_shots.set_xscale("log")
    by_shots.set_xticks(SHOTS[::2], [str(shots) for shots in SHOTS[::2]])
    by_shots.minorticks_off()
    by_shots.set_ylim(*axes.get_ylim())
    by_shots.set_xlabel("shots")
    by_shots.set_title("error at the best rate")
    by_shots.legend(frameon=False)
    for steps, beside in zip(ROUNDS, parts, strict=True):
        _draw_parts(beside, steps, rates)
        beside.set_ylim(*axes.get_ylim())
    parts[0].legend(loc="upper left", bbox_to_anchor=(0.27, 1.05), frameon=False)


def _draw_parts(axes: Axes, steps: int, rates: np.ndarray) -> None:
    far, noise = SMALL.dimension * SMALL.spread**2, SMALL.noise**2
    parts = [coefficients(SMALL.shots, SMALL.dimension, steps, Fraction(float(lr))) for lr in rates]
    bias = [float(b) * far for b, _, _ in parts]
    variance = [float(v) * noise for _, _, v in parts]
    axes.stackplot(
        rates, [noise] * len(rates), bias, variance, colors=(GREY, SERIES[0], SERIES[1]),
        labels=("noise of the example", "distance left", "noise of the support"),
    )  # fmt: skip
    for rate, marker in ((best_rate(steps), "o"), (rate_of_fomaml(steps), "x")):
        axes.plot([rate], [SMALL.expected_error(steps, rate)], marker, color=INK)
    axes.set_xlabel("inner rate")
    axes.set_title(f"its parts, {steps} step{'s' * (steps > 1)}")


def draw(
    name: str,
    content: Callable[..., None],
    inches: tuple[float, float] = (9.0, 4.6),
    panels: tuple[int, int] = (1, 2),
) -> None:
    """Write an SVG file of several drawings; the same content gives the same bytes."""
    save(FIGURES / f"{name}.svg", inches, panels, content)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_json_option(parser)
    arguments = parser.parse_args()
    tables = {"quadratic": table_of_starts(), "bias_variance": table_of_rates()}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)
        draw("quadratic", draw_plane)
        draw("bias_variance", draw_errors, *ERRORS)


if __name__ == "__main__":
    main()
