"""Energy of this machine while a run lasts, where a sensor can be read.

    RAPL    counters of Linux in /sys/class/powercap: processor packages and, where they have a zone
            of their own, memory modules
    NVML    the counter of the GPU that computes, if pynvml is installed (``fedmaml[energy]``)

A RAPL counter starts again from 0 at ``max_energy_range_uj``, after minutes on a busy machine, so
it is read every `INTERVAL_SECONDS` by a thread. Zones inside a package ("core", "uncore"), "psys"
(the whole machine) and the copies in ``intel-rapl-mmio`` would count the same joules twice.

RAPL: https://docs.kernel.org/power/powercap/powercap.html. Since Linux 5.10 its counters can be
read by root alone; an administrator may allow it with ``chmod o+r``.
"""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

POWERCAP = Path("/sys/class/powercap")
INTERVAL_SECONDS = 30.0

_COVERS = (
    "the whole of each sensor, all processes on this machine included, from the run's start to its "
    "summary; nodes on other machines are not included"
)


class SensorError(Exception):
    """A sensor is missing or cannot be read; the text is the reason."""


@dataclass(frozen=True)
class Energy:
    """Measured energy.

    Attributes:
        joules: All sensors together; None if it was not measured.
        sensors: Which they are.
        note: What they cover, or why there is no measurement.
    """

    joules: float | None
    sensors: tuple[str, ...]
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"sensors": list(self.sensors)}


@dataclass(frozen=True)
class Counter:
    """A sensor that counts joules upwards.

    Attributes:
        name: What it measures.
        read: Returns its count in joules; raises `SensorError`.
        span: Where it starts again from 0, in joules; 0: never.
    """

    name: str
    read: Callable[[], float]
    span: float = 0.0


class EnergyMeter:
    """Counts joules while it is entered.

    Args:
        gpu: UUID of the GPU that computes; "": none does.
        powercap: Folder of the RAPL zones.
        interval: Seconds between two readings.
    """

    def __init__(
        self, gpu: str = "", powercap: Path = POWERCAP, interval: float = INTERVAL_SECONDS
    ) -> None:
        self._interval = interval
        self._reasons: list[str] = []
        self._counters: list[Counter] = []
        self._last: list[float] = []
        self._joules = 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._cleanup = ExitStack()
        try:
            self._counters = rapl_counters(powercap)
            if gpu:
                self._counters.append(nvml_counter(gpu, self._cleanup))
            self._last = [counter.read() for counter in self._counters]
        except SensorError as error:
            self._give_up(error)

    def __enter__(self) -> Self:
        """Begin; the thread runs only if there is something to read."""
        if self._counters:
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """End the thread."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._cleanup.close()

    def energy(self) -> Energy:
        """Return the energy used so far."""
        self._take()
        with self._lock:
            if self._reasons:
                reason = "; ".join(self._reasons)
                note = f"not measured: no readable RAPL/NVML sensor ({reason})"
                return Energy(None, (), note)
            names = tuple(counter.name for counter in self._counters)
            return Energy(round(self._joules, 3), names, _COVERS)

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self._take()

    def _take(self) -> None:
        """Add the increase of the counters since the last reading."""
        with self._lock:
            for position, counter in enumerate(self._counters):
                try:
                    now = counter.read()
                except SensorError as error:  # half a measurement would be a wrong one
                    self._give_up(error)
                    return
                gone = now - self._last[position]
                self._joules += gone if gone >= 0 else gone + counter.span
                self._last[position] = now

    def _give_up(self, error: SensorError) -> None:
        self._reasons.append(str(error))
        self._counters = []


def rapl_counters(powercap: Path = POWERCAP) -> list[Counter]:
    """Return the counters of processor packages and memory modules.

    Raises:
        SensorError: If there are none, or one cannot be read.
    """
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = _text(zone / "name")
        if name.startswith(("package", "dram")):
            span = _joules(zone / "max_energy_range_uj")
            counter = Counter(f"RAPL {name}", lambda path=zone / "energy_uj": _joules(path), span)  # type: ignore[misc]
            found.append(counter)
    if not found:
        raise SensorError(f"{powercap} has no RAPL zone of a processor package")
    return found


def nvml_counter(uuid: str, cleanup: ExitStack) -> Counter:
    """Return the counter of a GPU.

    Args:
        uuid: As PyTorch names it.
        cleanup: Gets the call that shuts NVML down.

    Raises:
        SensorError: If pynvml, the driver or the GPU's counter is missing.
    """
    try:
        import pynvml
    except ImportError as error:
        raise SensorError(
            "the GPU's energy needs pynvml, which is not installed: pip install 'fedmaml[energy]'"
        ) from error
    name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"

    def read() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # from mJ
        except pynvml.NVMLError as error:
            raise SensorError(f"NVML, {name}: {error}") from error

    try:
        pynvml.nvmlInit()
        cleanup.callback(pynvml.nvmlShutdown)
        handle = pynvml.nvmlDeviceGetHandleByUUID(name)
    except pynvml.NVMLError as error:
        raise SensorError(f"NVML, {name}: {error}") from error
    return Counter(f"NVML {name}", read)


def _joules(path: Path) -> float:
    """Read a file of microjoules."""
    text = _text(path)
    try:
        return int(text) / 1e6
    except ValueError as error:
        raise SensorError(f"{path} holds {text[:40]!r}, which is no number") from error


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SensorError(f"{path}: {error.strerror}") from error
