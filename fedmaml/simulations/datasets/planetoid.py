"""Cora and Citeseer: papers that cite each other, cut into communities.

Sen et al. Collective Classification in Network Data. AI Magazine 29(3), 2008; Yang, Cohen,
Salakhutdinov. Revisiting Semi-Supervised Learning with Graph Embeddings. ICML 2016 (MIT);
https://github.com/kimiyoung/planetoid. The files read here hold the publisher's pickles as arrays.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedmaml.simulations.datasets.files import DataFile, data_folder, located
from fedmaml.simulations.datasets.suited import suited

NAMES = ("cora", "citeseer")
CLASSES = {"cora": 7, "citeseer": 6}
WORDS = 64
"""Columns that stand for the words of a paper."""

_PARTS, _MIN_NODES, _MAX_NODES = 24, 30, 160
_SOURCE = "github.com/kimiyoung/planetoid, data/ind.* as arrays"
FILES = {
    "cora": DataFile(
        "planetoid",
        "cora.npz",
        "sha256:779aa2c2831699f9acaeafc0acb0f176e87a1e2de551abd595cff113e1209118",
        source=_SOURCE,
    ),
    "citeseer": DataFile(
        "planetoid",
        "citeseer.npz",
        "sha256:4c65af01a21ea89f091240186d7a52fa9d48f6ed45ef3aed71f8fa7ce8f1e619",
        source=_SOURCE,
    ),
}


class Community(NamedTuple):
    """A part of a graph.

    Attributes:
        x: Words of its papers, float64 ``(papers, 64)``.
        edges: Pairs of papers, counted within it, int64 ``(edges, 2)``; each pair once.
        y: Classes, int64 ``(papers,)``; -100: unknown.
    """

    x: Tensor
    edges: Tensor
    y: Tensor


def communities(name: str, data_dir: str = "") -> tuple[Community, ...]:
    """Return the communities of the largest connected component.

    24 clusters of the eigenvectors of the normalised Laplacian; those below 30 papers are left out,
    of those above 160 the best connected 160 are kept. Citations between communities are dropped.
    Words are the 64 leading components of all papers, so they are known before the labels are.

    Args:
        name: "cora" or "citeseer".
        data_dir: Folder that holds a folder ``planetoid``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    return _communities(name, data_folder(data_dir))[0]


def left_out(name: str, data_dir: str = "") -> dict[str, str]:
    """Return the communities that `communities` leaves out, and why; arguments as there."""
    return _communities(name, data_folder(data_dir))[1]


@lru_cache(maxsize=4)
def _communities(name: str, folder: str) -> tuple[tuple[Community, ...], dict[str, str]]:
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    with np.load(located(FILES[name], folder), allow_pickle=False) as arrays:
        indices, ends = arrays["x_indices"], arrays["x_indptr"]
        edges, y = arrays["edges"].astype(np.int64), arrays["y"].astype(np.int64)
        shape = (len(y), int(arrays["num_features"]))
    words = sparse.csr_matrix((np.ones(len(indices)), indices.astype(np.int64), ends), shape)
    ones = np.ones(len(edges))
    graph = sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), (len(y), len(y)))
    graph = (graph + graph.T).tocsr()
    _, component = connected_components(graph, directed=False)
    rows = np.flatnonzero(component == np.bincount(component).argmax())
    x, part = _words(words), np.full(len(y), -1)
    part[rows] = _clusters(graph[rows][:, rows])
    degrees = np.asarray(graph.sum(1))[:, 0]
    parts = {f"community {number}": np.flatnonzero(part == number) for number in range(_PARTS)}
    reason = f"fewer than {_MIN_NODES} papers"
    fit, small = suited(parts, lambda members: reason if len(members) < _MIN_NODES else "")
    found = []
    for members in fit.values():
        best = members[np.argsort(-degrees[members], kind="stable")[:_MAX_NODES]]
        found.append(_community(np.sort(best), x, edges, y))
    return tuple(found), small


def _words(words: object) -> np.ndarray:
    from scipy.sparse.linalg import svds

    left, sizes, _ = svds(words, WORDS, v0=np.ones(min(words.shape)))  # type: ignore[attr-defined]
    x = left * sizes
    signs = np.sign(x[np.abs(x).argmax(0), np.arange(WORDS)])
    return np.asarray((x * signs - (x * signs).mean(0)) / x.std())


def _clusters(graph: object) -> np.ndarray:
    """Return the cluster of each node of a connected graph."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import KMeans

    degrees = np.asarray(graph.sum(1))[:, 0]  # type: ignore[attr-defined]
    half = diags(degrees**-0.5)
    _, vectors = eigsh(half @ graph @ half, _PARTS, v0=np.sqrt(degrees))
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = KMeans(_PARTS, n_init=4, random_state=0).fit_predict(rows)
    return found


def _community(members: np.ndarray, x: np.ndarray, edges: np.ndarray, y: np.ndarray) -> Community:
    place = np.full(len(y), -1)
    place[members] = np.arange(len(members))
    inside = place[edges]
    known = np.where(y[members] >= 0, y[members], -100)
    return Community(
        torch.from_numpy(x[members]),
        torch.from_numpy(inside[(inside >= 0).all(1)]),
        torch.from_numpy(known),
    )
