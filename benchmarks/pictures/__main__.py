"""Draw what models predict before and after they adapt, from runs of the atlas.

    python -m benchmarks.pictures [NAME ...] [--runs runs/atlas] [--out docs/figures]

The runs are those of `python -m benchmarks.atlas`, seed 0; each picture becomes a file in the docs,
and one beside its runs, for their report. Where one client is shown, it is that with the median
metric. The systems with pictures are:
"""

from benchmarks.drawing import Picture, draw_named
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

DRAWN = {
    "graph_nodes": Picture("a graph before and after adapting", graph_nodes.picture),
    "inverse_design": Picture("hits against calls of the oracle", inverse_design.picture),
    "jmak": Picture("three transformations and errors against steps", jmak.picture),
    "jmak_measured": Picture("new runs among the curves of the archive", jmak.picture_measured),
    "malaria": Picture("what the attention of SNAIL reads of a support", malaria.picture),
    "materials": Picture(
        "energies of a family that did not train before and after", materials.picture
    ),
    "molecules": Picture(
        "assays sorted by fine-tuned averaging and means by support", molecules.picture
    ),
    "patients": Picture("regret against samples and where methods start", patients.picture),
    "payload": Picture("errors against seconds and three estimates in time", payload.picture),
    "sky": Picture("accuracy against known objects by the mix of classes", sky.picture),
    "sky_anomaly": Picture("stars in the embedding of ProtoNet", sky_anomaly.picture),
    "synthesis": Picture("trials on the surface of one material", synthesis.picture),
}


if __name__ == "__main__":
    draw_named(__doc__, DRAWN)
