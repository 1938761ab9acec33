"""A run's model at a site, in scikit-learn's manner."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fedmaml.adapting.examples import classes_of, inputs_of, names_of, targets_of_site
from fedmaml.adapting.gain import Gain, gain_of
from fedmaml.adapting.model import Model, model_of
from fedmaml.adapting.network import SiteNetwork
from fedmaml.core.errors import ConfigurationError
from fedmaml.simulations.datasets.tables import Table


class _SiteModel(BaseEstimator):  # type: ignore[misc]
    """What classifiers and regressors share.

    Args:
        run: Folder of a complete run.
        steps: Of adaptation; None: as in the run; 0: none.
    """

    def __init__(self, run: str | os.PathLike[str] = "", steps: int | None = None) -> None:
        self.run = run
        self.steps = steps

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Adapt to a site's examples.

        Args:
            X: A frame with the columns of the run's tables, in any order; or numbers
                ``(rows, *features)``. NaN where a number of a table is missing.
            y: Labels of the run's classes, or numbers in the target's own unit, ``(rows,)``.

        Raises:
            DataError: If a value does not fit; names column and row.
        """
        model = model_of(self.run)
        if _is_plain(X, model):
            several = len(getattr(y, "shape", ())) > 1 and y.shape[1] > 1
            X, y = validate_data(self, X, y, multi_output=several, **_how(model))  # noqa: N806
            if isinstance(self, ClassifierMixin):
                check_classification_targets(y)
        raw, targets = inputs_of(model, X), targets_of_site(model, y)
        unadapted = SiteNetwork(model, lambda x: x)
        self.model_ = model
        self.network_ = SiteNetwork(
            model, model.adapted(unadapted.inputs(raw), targets, self.steps)
        ).requires_grad_(False)
        self.rows_, self.shape_, self.dtype_ = len(raw), tuple(raw.shape[1:]), raw.dtype
        if (names := names_of(model)) is not None:
            self.feature_names_in_, self.n_features_in_ = names, len(names)
        elif isinstance(X, torch.Tensor):
            self.n_features_in_ = X.shape[1]
        if isinstance(self, ClassifierMixin):
            self.classes_ = classes_of(model)
        return self

    def estimate_gain(self, X: Any, y: Any, seed: int = 0) -> Gain:  # noqa: N803
        """Estimate by cross-validation what adapting to these examples gains.

        Args:
            X: As of ``fit``.
            y: As of ``fit``.
            seed: Of the draw of the parts.

        Returns:
            Losses and the headline metric before and after; its ``advice`` is one sentence.
        """
        model = model_of(self.run)
        raw, targets = inputs_of(model, X), targets_of_site(model, y)
        inputs = SiteNetwork(model, lambda x: x).inputs(raw)
        self.gain_ = gain_of(model, inputs, targets, self.steps, seed)
        return self.gain_

    def save(
        self,
        folder: str | os.PathLike[str],
        formats: Sequence[str] | None = None,
        force: bool = False,
    ) -> Path:
        """Write the adapted model to a folder, with its model card; return the folder.

        Args:
            folder: Is made.
            formats: Of "safetensors", "torch" (``torch.export``) and "onnx"; None: all that the
                installed packages can write.
            force: Overwrite the model that the folder holds.

        Raises:
            ConfigurationError: If a format is unknown, or its package is not installed.
            RunDirectoryError: If the folder holds something, or cannot be written.
        """
        from fedmaml.adapting.folder import save

        check_is_fitted(self)
        return save(self, Path(folder), formats, force)

    def _predicted(self, X: Any) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        if _is_plain(X, self.model_):
            X = validate_data(self, X, reset=False, **_how(self.model_))  # noqa: N806
        predicted: np.ndarray = self.network_(inputs_of(self.model_, X)).double().numpy()
        return predicted

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        known = getattr(self, "model_", None) or (model_of(self.run) if self.run else None)
        tags.input_tags.allow_nan = known is not None and known.rows is not None
        tags.target_tags.required = True
        return tags


class SiteClassifier(ClassifierMixin, _SiteModel):  # type: ignore[misc]
    """A classifier that adapts a run's model to a site; see `_SiteModel` for its arguments.

    Attributes:
        classes_: The labels.
        network_: The adapted model, a module.
        gain_: Of the last ``estimate_gain``.
    """

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the most probable label of each row, ``(rows,)``."""
        probabilities = self._predicted(X)
        labels: np.ndarray = self.classes_[probabilities.argmax(1)]
        return labels

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the probabilities of ``classes_``, ``(rows, classes)``."""
        return self._predicted(X)


class SiteRegressor(RegressorMixin, _SiteModel):  # type: ignore[misc]
    """A regressor that adapts a run's model to a site; see `_SiteModel` for its arguments.

    Attributes:
        network_: The adapted model, a module.
        gain_: Of the last ``estimate_gain``.
    """

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the prediction of each row in the target's own unit, ``(rows,)``."""
        return self._predicted(X)


SiteModel = SiteClassifier | SiteRegressor


def _is_plain(X: Any, model: Model) -> bool:  # noqa: N803
    """Return whether scikit-learn checks the inputs: tables and tensors check themselves."""
    return not isinstance(X, Table | torch.Tensor) and names_of(model) is None


def _how(model: Model) -> dict[str, Any]:
    """Return how scikit-learn checks arrays."""
    finite = True if model.rows is None else "allow-nan"
    return {"allow_nd": True, "dtype": "numeric", "ensure_all_finite": finite}


def estimator_of(
    run: str | os.PathLike[str], steps: int | None = None, *, tables: bool = False
) -> SiteModel:
    """Return an estimator of the kind of a run, not fitted.

    Args:
        run: Folder of a complete run.
        steps: Of adaptation; None: as in the run; 0: none.
        tables: Whether it must read tables.

    Raises:
        ConfigurationError: If it must and cannot.
    """
    model = model_of(run)
    if tables and names_of(model) is None:
        raise ConfigurationError(
            f"the run in {run} knows no columns: adapt it from Python, fm.load({str(run)!r})"
            ".adapt(X, y)"
        )
    kind = SiteRegressor if model.target == "numbers" else SiteClassifier
    return kind(os.fspath(run), steps)
