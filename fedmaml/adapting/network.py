"""An adapted model as one module: raw rows in, probabilities or numbers out."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_unflatten

from fedmaml.adapting.model import Model
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.learner import Predictor
from fedmaml.core.tasks import Batch
from fedmaml.simulations.datasets.moments import moments


class SiteNetwork(nn.Module):
    """Predicts for a site.

    Input: of tables float64 ``(rows, entries)``, NaN where a number is missing, categories one-hot;
    means and scales of the training clients are in the module. Else what the network takes,
    ``(rows, *features)``. Output, ``(rows, ...)``: probabilities of all classes, or numbers in the
    target's own unit.

    Attributes:
        predictor: The result of adaptation.
    """

    mean: Tensor
    scale: Tensor
    target: Tensor

    def __init__(self, model: Model, predictor: Predictor) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: its network is no sub-module, its weights are not used
        self._named = tensors_of(predictor)
        for position, tensor in enumerate(self._named.values()):
            self.register_buffer(f"tensor_{position}", tensor.detach())
        self.predictor = predictor
        mean, scale = _moments_of_inputs(model)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        totals = model.shared_statistics.get("target", torch.tensor([1.0, 0.0, 1.0]))
        self.register_buffer("target", torch.stack(moments(*totals)).double())

    def inputs(self, x: Tensor) -> Tensor:
        """Return what the network takes for raw rows."""
        model = self._model[0]
        if model.rows is not None:
            x = (x - self.mean) / self.scale
            x = torch.where(x.isnan(), torch.zeros_like(x), x)
            if model.rows.network == "own":
                x = x.reshape(-1, *(model.rows.shape or (model.rows.schema.width,)))
        return x.to(model.problem.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Predict; see the class."""
        return self.outcome(self.raw(self.inputs(x)))

    def raw(self, x: Tensor) -> Tensor:
        """Return the network's output for its own inputs."""
        named = {name: getattr(self, f"tensor_{at}") for at, name in enumerate(self._named)}
        predictor = with_tensors(self.predictor, named) if named else self.predictor
        prediction = predictor(x)
        if not isinstance(prediction, Tensor):
            raise UnsupportedProblemError(
                "the network returns several tensors by name, and an estimator needs one: let it "
                "return one, or use its predictor from Python"
            )
        return prediction

    def outcome(self, raw: Tensor) -> Tensor:
        """Return probabilities, or numbers in their unit, of the network's output."""
        model = self._model[0]
        if model.target == "classes":
            return raw.softmax(-1)
        if model.target == "two classes":
            second = raw[:, :1].sigmoid()
            return torch.cat([1 - second, second], 1)
        raw = raw[:, 0] if raw.ndim == 2 and raw.shape[1] == 1 else raw
        if model.rows is None:
            return raw
        return raw.double() * self.target[1] + self.target[0]


def tensors_of(predictor: Predictor) -> dict[str, Tensor]:
    """Return the tensors that a predictor depends on, by name; {} if they are out of reach.

    A predictor is a ``functools.partial``; of one of the network alone they are its parameters by
    their own names.
    """
    return {name: leaf for name, leaf in _leaves(predictor) if isinstance(leaf, Tensor)}


def with_tensors(predictor: Predictor, tensors: Mapping[str, Tensor]) -> Predictor:
    """Return the same predictor with other tensors, by the names of `tensors_of`."""
    assert isinstance(predictor, partial)
    _, tree = tree_flatten_with_path(predictor.args)
    leaves = [tensors.get(name, leaf) for name, leaf in _leaves(predictor)]
    return partial(predictor.func, *tree_unflatten(leaves, tree))


def holds_support(predictor: Predictor) -> bool:
    """Return whether a predictor keeps examples, as those do that compare with their embeddings."""
    return isinstance(predictor, partial) and any(
        isinstance(each, Batch) for each in predictor.args
    )


def _leaves(predictor: Predictor) -> list[tuple[str, Any]]:
    if not isinstance(predictor, partial) or predictor.keywords:
        return []
    leaves, _ = tree_flatten_with_path(predictor.args)
    first = 1 if len(predictor.args) == 1 else 0  # a single argument needs no number
    return [(".".join(_name(key) for key in path[first:]), leaf) for path, leaf in leaves]


def _name(key: Any) -> str:
    """Return a step of a path of PyTorch's trees as text."""
    return str(next(getattr(key, kind) for kind in ("key", "name", "idx") if hasattr(key, kind)))


def _moments_of_inputs(model: Model) -> tuple[Tensor, Tensor]:
    """Return mean and scale of each entry of an example; 0 and 1 of what is one-hot."""
    rows = model.rows
    if rows is None:
        return torch.zeros(()), torch.ones(())
    mean = torch.zeros(rows.schema.width, dtype=torch.float64)
    scale = torch.ones(rows.schema.width, dtype=torch.float64)
    numbers = list(rows.schema.numbers)
    totals = (model.shared_statistics[name] for name in ("count", "sum", "squares"))
    mean[numbers], scale[numbers] = moments(*totals)
    return mean, scale
