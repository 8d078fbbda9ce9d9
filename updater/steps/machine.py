"""What the machine does while it trains: MLflow's system metrics on the run, and the energy drawn.

A thread of the process that runs step train, which alone talks to the stores; so it sees the
machine where that runs, GPUs of all its training processes among them, and no other machine of a
training on several. Training never waits for it, and goes on where MLflow is lost: what could not
be told is told when MLflow is back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from store import system_metrics
from store.errors import DeniedError, UnreachableError
from store.points import Point
from updater import energy
from updater.files import read_json, write_json

if TYPE_CHECKING:
    from store.registry import Registry
    from store.system_metrics import SystemMetrics
    from updater.settings import TrainingSettings

ENERGY_FILE = "energy.json"
SECONDS = 10.0  # between two readings of the counters where MLflow's metrics are switched off
MOST_UNSENT = 10_000  # points of some twenty numbers, a day's at one in ten seconds
log = logging.getLogger("updater")


class Machine:
    """A context manager: the machine is watched until its end. `folder` is the update's.

    Raises:
        UnreachableError, StoreError: the run can't be found.
    """

    def __init__(
        self, registry: Registry, run_id: str, folder: Path, training: TrainingSettings
    ) -> None:
        self._registry = registry
        self._run_id = run_id
        self._file = folder / ENERGY_FILE
        self._meter = energy.meter(training.devices) if training.nodes == 1 else None
        self._metrics = _metrics(registry, run_id)
        self._started_ms = registry.started_ms(run_id)
        self._stop = threading.Event()
        self._unsent: list[Point] = []

    def __enter__(self) -> Machine:
        self._drawn = self._meter() if self._meter else 0.0
        self._thread = threading.Thread(target=self._watch, name="machine", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def result(self) -> dict[str, Any]:
        """What the training drew in all of its attempts, for the step's result; nothing where no
        meter was there."""
        if self._meter is None:
            return {}
        return {"energy_joules": _joules(self._file)}

    def _watch(self) -> None:
        """Until the end, when once more is read: a short training has two points."""
        seconds = self._metrics.seconds if self._metrics else SECONDS
        try:
            self._read()
            while not self._stop.wait(seconds):
                self._read()
            self._read()
        except Exception as error:
            log.warning("training goes on; what the machine does is told no longer: %s", error)
            return
        if self._unsent:
            log.warning("MLflow does not answer: %d system metrics are lost", len(self._unsent))

    def _read(self) -> None:
        if self._meter is not None:
            now = self._meter()
            write_json(self._file, {"joules": _joules(self._file) + max(0.0, now - self._drawn)})
            self._drawn = now
        if self._metrics is not None:
            at_ms = int(time.time() * 1000)
            point = Point((at_ms - self._started_ms) // 1000, at_ms, self._metrics.read())
            self._unsent = [*self._unsent[1 - MOST_UNSENT :], point]
            with contextlib.suppress(UnreachableError, DeniedError):  # told with the next ones
                self._registry.log_curve(self._run_id, self._unsent)
                self._unsent = []


def _metrics(registry: Registry, run_id: str) -> SystemMetrics | None:
    if system_metrics.is_switched_off():
        return None
    try:
        return registry.system_metrics(run_id)
    except ImportError as missing:
        log.warning("no system metrics: %s", missing)
        return None


def _joules(file: Path) -> float:
    return float(read_json(file)["joules"]) if file.exists() else 0.0
