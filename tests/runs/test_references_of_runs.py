"""A run compared with references: pairs, and the text where a value is missing."""

import json
import math
from pathlib import Path

import pytest

from fedmaml.core.errors import RunDirectoryError
from fedmaml.core.metrics import MEAN_SQUARED_ERROR
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.references import against_references, label, values_of

ROW = {"name": "x", "about": "", "federated": True, "oracle": False, "settings": {}, "tuned_on": 0}


def against(theirs: list[dict], ours: list[dict]) -> dict:
    (found,) = against_references([ROW | {"clients": theirs}], ours, [MEAN_SQUARED_ERROR])
    return found["metrics"][0]


def test_differences_are_paired_by_client_and_not_by_place() -> None:
    ours = [{"client": c, "mse:before": 9.0, "mse:after": v} for c, v in ((3, 1.0), (1, 2.0))]
    theirs = [{"client": c, "mse": v} for c, v in ((1, 0.5), (2, 100.0), (3, 2.0))]
    found = against(theirs, ours)
    # client 1: 2 - .5 = 1.5, client 3: 1 - 2 = -1; client 2 is the reference's alone
    assert found["difference"] == pytest.approx((1.5 - 1.0) / 2)
    assert found["mean"] == pytest.approx(102.5 / 3)
    assert found["difference_ci95"] is None  # two clients carry none


def test_a_client_that_diverged_takes_the_difference_and_an_undefined_one_itself() -> None:
    theirs = [{"client": 1, "mse": 1.0}, {"client": 2, "mse": 1.0}]
    lost = [{"client": 1, "mse:after": 2.0}, {"client": 2, "mse:after": "diverged"}]
    assert against(theirs, lost)["difference"] is None
    undefined = [{"client": 1, "mse:after": 2.0}, {"client": 2, "mse:after": None}]
    assert against(theirs, undefined)["difference"] == 1.0


def test_values_are_read_as_files_hold_them() -> None:
    rows = [{"client": 1, "a": 0}, {"client": 2, "a": None}, {"client": 3, "a": "diverged"}]
    values = values_of(rows, "a")
    assert values[1] == 0
    assert math.isnan(values[2])
    assert math.isinf(values[3])


def test_labels_say_what_one_must_know() -> None:
    assert label(ROW) == "x"
    assert label(ROW | {"federated": False}) == "x (not federated)"
    assert label(ROW | {"oracle": True}) == "x (knows the answer)"


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.references() == []
    directory.save_references([])
    assert not (tmp_path / "references.json").exists()
    whole = ROW | {"clients": [{"client": 4, "accuracy": 0.5}]}
    directory.save_references([whole])
    assert directory.references() == [whole]
    for text in ("[{", json.dumps({"a": 1})):
        (tmp_path / "references.json").write_text(text)
        with pytest.raises(
            RunDirectoryError, match=r"references.json in .* is damaged .*run it again"
        ):
            directory.references()
