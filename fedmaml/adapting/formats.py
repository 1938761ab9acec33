"""Files of an adapted model: safetensors, torch.export, ONNX. Each is made in memory, whole."""

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from fedmaml.adapting.network import SiteNetwork, tensors_of
from fedmaml.core.errors import ConfigurationError, UnsupportedProblemError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram

FILES = {"safetensors": "model.safetensors", "torch": "model.pt2", "onnx": "model.onnx"}
"""Format -> file."""

STATISTICS = "shared_statistics/"
"""Prefix of the names of shared statistics in the safetensors file."""

_ONNX = ("onnx", "onnxscript")


def chosen_formats(formats: Sequence[str] | None) -> tuple[str, ...]:
    """Return the formats to write; None: all that the installed packages can write.

    Raises:
        ConfigurationError: If one is unknown, or its package is not installed.
    """
    missing = [name for name in _ONNX if importlib.util.find_spec(name) is None]
    if formats is None:
        return tuple(name for name in FILES if name != "onnx" or not missing)
    for name in formats:
        if name not in FILES:
            raise ConfigurationError(f"format {name!r}: known: {', '.join(FILES)}")
    if "onnx" in formats and missing:
        raise ConfigurationError(
            f"format 'onnx' needs {' and '.join(missing)}: pip install 'fedmaml[onnx]'"
        )
    return tuple(name for name in FILES if name in formats)


def written(
    network: SiteNetwork, example: Tensor, statistics: Mapping[str, Tensor], formats: Sequence[str]
) -> dict[str, bytes]:
    """Return the files of a model by name.

    Args:
        network: The adapted model.
        example: Raw inputs of at least two rows; the number of rows is free in the files.
        statistics: Totals over the training clients.
        formats: Of `FILES`.

    Raises:
        UnsupportedProblemError: If the model cannot be written in a format.
    """
    made: dict[str, bytes] = {}
    if "safetensors" in formats:
        made[FILES["safetensors"]] = _safetensors(network, statistics)
    if {"torch", "onnx"} & {*formats}:
        program = _exported(network, example)
        if "torch" in formats:
            made[FILES["torch"]] = _saved(program)
        if "onnx" in formats:
            made[FILES["onnx"]] = _onnx(program, example)
    return made


def _safetensors(network: SiteNetwork, statistics: Mapping[str, Tensor]) -> bytes:
    tensors = tensors_of(network.predictor)
    if not tensors:
        raise UnsupportedProblemError(
            "the strategy's adapt returns a function that keeps its tensors to itself, so they "
            "cannot be written: return functools.partial(function, tensors, ...)"
        )
    named = {STATISTICS + name: value for name, value in statistics.items()}
    named |= {name: value.detach() for name, value in tensors.items()}
    return to_safetensors({name: value.contiguous().clone() for name, value in named.items()})


def _exported(network: SiteNetwork, example: Tensor) -> "ExportedProgram":
    rows = torch.export.Dim("rows")
    with _quiet():
        return _or_refused(
            "torch.export",
            lambda: torch.export.export(network, (example,), dynamic_shapes={"x": {0: rows}}),
        )


def _saved(program: "ExportedProgram") -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(program: "ExportedProgram", example: Tensor) -> bytes:
    with _quiet():
        made = _or_refused(
            "ONNX",
            lambda: torch.onnx.export(
                program, (example,), input_names=["rows"], output_names=["prediction"],
                dynamo=True, verbose=False,
            ),
        )  # fmt: skip
    content: bytes = made.model_proto.SerializeToString()
    return content


def _or_refused(what: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # PyTorch has many
        raise UnsupportedProblemError(
            f"the network cannot be written as {what} ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}): leave this format out, --formats safetensors"
        ) from error


@contextmanager
def _quiet() -> "Iterator[None]":
    """Hide what PyTorch's exporters say of themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
