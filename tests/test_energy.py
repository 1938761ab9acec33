"""Energy, from folders like those of Linux with real files, and a pynvml that is a real module."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from fedmaml.config import resolve
from fedmaml.energy import EnergyMeter
from fedmaml.running import execute
from fedmaml.server import app

SPAN = 262_143_328_850  # microjoules, as a server processor has it


def zone(folder: Path, number: str, name: str, microjoules: int, driver: str = "rapl") -> Path:
    """Make a RAPL zone; return the file of its counter."""
    path = folder / f"intel-{driver}:{number}"
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{SPAN}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def test_packages_and_memory_are_added_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    counters = [
        zone(tmp_path, "0", "package-0", 1_000_000),
        zone(tmp_path, "1", "package-1", 7_000_000),
        zone(tmp_path, "0:1", "dram", 500_000),
    ]
    others = [
        zone(tmp_path, "0:0", "core", 0),
        zone(tmp_path, "2", "psys", 0),
        zone(tmp_path, "0", "package-0", 0, driver="rapl-mmio"),
    ]
    with EnergyMeter(powercap=tmp_path) as meter:
        for path, value in zip(counters, (3_500_000, 8_000_000, 750_000), strict=True):
            path.write_text(str(value))
        for path in others:
            path.write_text("99000000")
        energy = meter.energy()
    assert energy.joules == pytest.approx(2.5 + 1.0 + 0.25)
    assert set(energy.sensors) == {"RAPL package-0", "RAPL package-1", "RAPL dram"}
    assert "all processes on this machine" in energy.note
    assert json.dumps(energy.to_json())


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", SPAN - 2_000_000)
    with EnergyMeter(powercap=tmp_path) as meter:
        counter.write_text("3000000")
        assert meter.energy().joules == pytest.approx(5.0)
        counter.write_text("4000000")
        assert meter.energy().joules == pytest.approx(6.0)


def test_a_counter_may_start_again_more_than_once(tmp_path: Path) -> None:
    """Since it is read all the time, not only at the end."""
    counter = zone(tmp_path, "0", "package-0", 0)
    with EnergyMeter(powercap=tmp_path, interval=0.01) as meter:
        for value in (SPAN - 1, 1_000_000, SPAN - 1, 1_000_000):
            counter.with_suffix(".new").write_text(str(value))
            counter.with_suffix(".new").replace(counter)
            time.sleep(0.1)
        joules = meter.energy().joules
    assert joules == pytest.approx((2 * SPAN + 1_000_000) / 1e6, rel=1e-6)


def test_no_sensor_is_said_with_the_reason(tmp_path: Path) -> None:
    with EnergyMeter(powercap=tmp_path / "powercap") as meter:
        energy = meter.energy()
    assert energy.joules is None
    assert energy.sensors == ()
    assert energy.note == (
        f"not measured: no readable RAPL/NVML sensor ({tmp_path}/powercap has no RAPL zone of a "
        "processor package)"
    )


def test_a_counter_that_only_root_may_read_is_said(tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", 0)
    counter.chmod(0)
    if os.access(counter, os.R_OK):  # we are root: a folder cannot be read as a file by anyone
        counter.unlink()
        counter.mkdir()
    with EnergyMeter(powercap=tmp_path) as meter:
        energy = meter.energy()
    assert energy.joules is None
    assert energy.note.startswith(f"not measured: no readable RAPL/NVML sensor ({counter}: ")
    assert energy.note.endswith(("Permission denied)", "Is a directory)"))


@pytest.mark.parametrize("content", ["", "many\n"])
def test_a_counter_that_breaks_meanwhile_ends_the_measurement(content: str, tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", 0)
    with EnergyMeter(powercap=tmp_path) as meter:
        counter.write_text("5000000")
        assert meter.energy().joules == 5.0
        counter.write_text(content)
        energy = meter.energy()
    assert energy.joules is None
    assert "which is no number" in energy.note


NVML = """
class NVMLError(Exception):
    pass

counts = iter([2_000, 9_500])
closed = []

def nvmlInit():
    pass

def nvmlShutdown():
    closed.append(True)

def nvmlDeviceGetHandleByUUID(name):
    if name != "GPU-1234":
        raise NVMLError("Not Found")
    return name

def nvmlDeviceGetTotalEnergyConsumption(handle):
    return next(counts)
"""


@pytest.fixture
def pynvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


def test_a_gpu_that_computes_is_added(pynvml: None, tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", 0)
    with EnergyMeter("1234", tmp_path) as meter:
        counter.write_text("1000000")
        energy = meter.energy()
    assert energy.joules == pytest.approx(1.0 + 7.5)
    assert energy.sensors == ("RAPL package-0", "NVML GPU-1234")
    assert sys.modules.pop("pynvml").closed == [True]


def test_a_gpu_without_a_counter_is_not_passed_over(pynvml: None, tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 0)
    with EnergyMeter("99", tmp_path) as meter:
        energy = meter.energy()
    assert energy.joules is None
    assert "NVML, GPU-99: Not Found" in energy.note
    sys.modules.pop("pynvml")


def test_nvml_without_a_driver_or_such_a_gpu_is_said_by_the_real_library(tmp_path: Path) -> None:
    pytest.importorskip("pynvml")
    zone(tmp_path, "0", "package-0", 0)
    with EnergyMeter("00000000-0000-0000-0000-000000000000", tmp_path) as meter:
        energy = meter.energy()
    assert energy.joules is None
    assert "NVML, GPU-00000000-0000-0000-0000-000000000000: " in energy.note


def test_a_gpu_without_pynvml_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    zone(tmp_path, "0", "package-0", 0)
    with EnergyMeter("1234", tmp_path) as meter:
        assert "pip install 'fedmaml[energy]'" in meter.energy().note


def test_a_run_tells_its_joules_or_why_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve({"scenario": "quadratic", "strategy": "fedavg", "rounds": 1})
    powercap = tmp_path / "powercap"

    def metered(gpu: str) -> EnergyMeter:
        return EnergyMeter(gpu, powercap)

    monkeypatch.setattr(app, "EnergyMeter", metered)
    reported = execute(config, tmp_path / "one")["cost"]["energy"]
    assert reported["joules"] is None
    assert reported["note"].startswith("not measured: no readable RAPL/NVML sensor")
    zone(powercap, "0", "package-0", 5)
    reported = execute(config, tmp_path / "two")["cost"]["energy"]
    assert (reported["joules"], reported["sensors"]) == (0.0, ["RAPL package-0"])
