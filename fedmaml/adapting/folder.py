"""An adapted model on disk, written whole and read again.

model.json          what it is: the run's configuration, columns, classes, gain, versions
model.safetensors   its tensors, and sums over the training clients
model.pt2           the model by torch.export: raw rows in, predictions out
model.onnx          the same
README.md           the model card

No row of the site is in it, unless the strategy predicts by comparing with examples (ProtoNet):
then their embeddings are, and the card says so.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors

from fedmaml import __version__
from fedmaml.adapting.card import model_card
from fedmaml.adapting.estimators import SiteClassifier, SiteModel, SiteRegressor
from fedmaml.adapting.examples import classes_of, names_of
from fedmaml.adapting.formats import FILES, STATISTICS, chosen_formats, written
from fedmaml.adapting.model import Model, built
from fedmaml.adapting.network import SiteNetwork, holds_support, tensors_of, with_tensors
from fedmaml.config import resolve
from fedmaml.core.errors import RunDirectoryError
from fedmaml.runs.completeness import complete_summary
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.writing import write_all
from fedmaml.simulations.datasets.rows import rows_from_json

FORMAT = 1
"""Format of a model's folder; another number whenever a reader of this one would fail."""

_DESCRIPTION, _CARD = "model.json", "README.md"
_OURS = {_DESCRIPTION, _CARD, *FILES.values()}


def refuse_folder(folder: Path, force: bool = False) -> None:
    """Refuse a folder that holds something, unless it is a model and ``force``.

    Raises:
        RunDirectoryError: Says what to do.
    """
    if folder.is_file():
        raise RunDirectoryError(f"{folder} is a file; name a folder")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found - _OURS:
        raise RunDirectoryError(
            f"{folder} holds other files ({min(found - _OURS)}): name a new folder with --out"
        )
    if found and not force:
        raise RunDirectoryError(
            f"{folder} holds a model already: name another folder with --out, or overwrite it with "
            "--force"
        )


def save(
    fitted: SiteModel, folder: Path, formats: Sequence[str] | None = None, force: bool = False
) -> Path:
    """Write a fitted model; see `estimators`."""
    chosen = chosen_formats(formats)
    refuse_folder(folder, force)
    model, network = fitted.model_, fitted.network_
    example = torch.zeros(2, *fitted.shape_, dtype=fitted.dtype_)
    files = written(network, example, model.shared_statistics, chosen)
    run = RunDirectory(Path(fitted.run).absolute())
    gain = getattr(fitted, "gain_", None)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "run": str(run.path),
        "config": model.config.to_table(),
        "rows": None if model.rows is None else model.rows.to_json(),
        "shape": list(fitted.shape_),
        "n_features_in": fitted.n_features_in_,
        "steps": fitted.steps,
        "examples": fitted.rows_,
        "gain": None if gain is None else gain.to_json(),
        "files": [*files],
        "versions": {"fedmaml": __version__, "torch": torch.__version__},
    }
    embeddings = holds_support(network.predictor)
    card = model_card(model, complete_summary(run), facts, embeddings=embeddings)
    files |= {_CARD: card.encode(), _DESCRIPTION: (json.dumps(facts, indent=2) + "\n").encode()}
    for name in _OURS - set(files):
        (folder / name).unlink(missing_ok=True)
    write_all({folder / name: content for name, content in files.items()})
    return folder


def load(folder: Path) -> SiteModel:
    """Read a model from its safetensors file, as a fitted estimator.

    Raises:
        RunDirectoryError: If the folder holds none, or it is damaged.
        ConfigurationError: If its network or strategy is code that is not here.
    """
    facts = _description(folder)
    rows = None if facts["rows"] is None else rows_from_json(facts["rows"])
    path = folder / FILES["safetensors"]
    if not path.exists():
        raise RunDirectoryError(
            f"{folder} has no {path.name}: adapt the run again with --formats safetensors, or load "
            f"{FILES['torch']} with torch.export.load"
        )
    try:
        tensors = from_safetensors(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise RunDirectoryError(f"{path} is damaged ({error}); adapt the run again") from error
    statistics = {
        name.removeprefix(STATISTICS): tensors.pop(name)
        for name in [*tensors]
        if name.startswith(STATISTICS)
    }
    model = built(resolve(facts["config"], with_data=False), rows, statistics)
    kind = SiteRegressor if model.target == "numbers" else SiteClassifier
    fitted = kind(facts["run"], facts["steps"])
    fitted.model_, fitted.rows_ = model, facts["examples"]
    fitted.shape_ = tuple(facts["shape"])
    fitted.dtype_ = torch.float64 if rows is not None else model.problem.dtype
    fitted.n_features_in_ = facts["n_features_in"]
    if (names := names_of(model)) is not None:
        fitted.feature_names_in_ = names
    if isinstance(fitted, SiteClassifier):
        fitted.classes_ = classes_of(model)
    empty = _on_nothing(model, fitted)
    if {*tensors_of(empty)} != {*tensors}:
        raise RunDirectoryError(
            f"{path} has the tensors {', '.join(sorted(tensors))}, and the model needs "
            f"{', '.join(sorted(tensors_of(empty)))}: adapt the run again"
        )
    fitted.network_ = SiteNetwork(model, with_tensors(empty, tensors)).requires_grad_(False)
    return fitted


def _on_nothing(model: Model, fitted: SiteModel) -> Any:
    """Return a predictor of the right form, whose tensors are of no use."""
    raw = torch.zeros(1, *fitted.shape_, dtype=fitted.dtype_)
    y = torch.zeros(1, dtype=torch.int64 if model.target == "classes" else torch.float64)
    steps = None if model.steps is None else 0
    return model.adapted(SiteNetwork(model, lambda x: x).inputs(raw), y, steps)


def _description(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    if not path.exists():
        raise RunDirectoryError(
            f"{folder} holds no model: make one with fedmaml adapt RUN --data FILE --out {folder}"
        )
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise RunDirectoryError(f"{path} is damaged ({error}); adapt the run again") from error
    if facts.get("format") != FORMAT:
        raise RunDirectoryError(
            f"{path} has format {facts.get('format')}, and this is fedmaml {__version__}, which "
            f"reads format {FORMAT}: adapt the run again"
        )
    return facts
