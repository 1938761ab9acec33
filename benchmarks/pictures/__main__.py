"""Draw what models predict before and after they adapt, from runs of the atlas.

    python -m benchmarks.pictures [NAME ...] [--runs runs/atlas] [--out docs/figures]

One SVG file each:

    graph_nodes     a graph before and after adapting
    inverse_design  hits against calls of the oracle
    jmak            three transformations, and errors against steps
    jmak_measured   new runs among the curves of the archive
    malaria         what SNAIL's attention reads of a support
    materials       energies of a held-out family before and after
    molecules       assays, sorted by fine-tuned averaging
    patients        regret against samples, and the starts
    payload         errors against seconds, and three estimates in time
    sky             accuracy against known objects, by the mix of classes
    sky_anomaly     stars in ProtoNet's embedding
    synthesis       trials on the surface of one material

The runs are those of `python -m benchmarks.atlas`, seed 0. Where one client is shown, it is that
with the median metric.
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks.drawing import draw_named
from benchmarks.pictures import (
    graph_nodes,
    inverse_design,
    jmak,
    malaria,
    materials,
    molecules,
    patients,
    payload,
    sky,
    sky_anomaly,
    synthesis,
)

DRAWN: dict[str, Callable[[Path, Path], None]] = {
    "graph_nodes": graph_nodes.picture,
    "inverse_design": inverse_design.picture,
    "jmak": jmak.picture,
    "jmak_measured": jmak.picture_measured,
    "malaria": malaria.picture,
    "materials": materials.picture,
    "molecules": molecules.picture,
    "patients": patients.picture,
    "payload": payload.picture,
    "sky": sky.picture,
    "sky_anomaly": sky_anomaly.picture,
    "synthesis": synthesis.picture,
}


if __name__ == "__main__":
    draw_named(__doc__, DRAWN)
