"""One figure for Python: loss and validation metric over the rounds of training."""

import matplotlib as mpl
from matplotlib.figure import Figure

from fedmaml.report import series, words
from fedmaml.report.canvas import PAGE, line, looks_of
from fedmaml.report.reading import Material

_WIDTH, _HEIGHT = 5.0, 3.2  # inches, of each panel


def learning_curves(material: Material) -> Figure:
    """Draw a panel for each of loss and metric that the runs have; seeds as a band.

    Args:
        material: Runs with rounds; one panel stays empty if there are none.
    """
    looks = looks_of(list(material.runs))
    panels = {
        "training loss": series.training_loss(material, "rounds"),
        f"{words.metric_label(material.metric)}, validation clients": series.validation(
            material, "rounds"
        ),
    }
    shown = {label: curves for label, curves in panels.items() if curves} or {"training loss": {}}
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(PAGE.settings())
        canvas = Figure(figsize=(_WIDTH * len(shown), _HEIGHT))
        for position, (label, curves) in enumerate(shown.items(), 1):
            axes = canvas.add_subplot(1, len(shown), position)
            for name, curve in curves.items():
                line(axes, name, curve, looks[name])
            axes.set_xlabel("rounds")
            axes.set_ylabel(label)
            if len(curves) > 1:
                axes.legend()
        canvas.draw_without_rendering()
    return canvas
