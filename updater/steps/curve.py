"""The training curve while it grows: a line a step in train_metrics.jsonl, and MLflow behind it.

The file is the truth. MLflow can take no point back, so it is told a step's metrics only when the
training's state of that step is on the disk: a kill makes the steps after it come again, and then
the newest count. Until they are told, points wait in the file; each carries its time, by which
MLflow knows a point that it is told twice. So a resumed training tells the whole file again.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from store.errors import DeniedError, UnreachableError
from store.points import Point
from updater.files import write_text

if TYPE_CHECKING:
    from store.registry import Registry

FLUSH_SECONDS = 5.0  # chosen so that a batch to MLflow (about 0.05 s) costs about 1 % of the time
log = logging.getLogger("updater")


class Curve:
    """Metrics of one training, by step; a context manager that sends what is left at its end.

    `checkpoint_every_steps` is the training's: `updater.train.fit` has saved its state of such a
    step before it hands out metrics of a later one.
    """

    def __init__(
        self, registry: Registry, run_id: str, folder: Path, *, checkpoint_every_steps: int
    ) -> None:
        self._registry = registry
        self._run_id = run_id
        self._path = folder / "train_metrics.jsonl"
        self._every_steps = checkpoint_every_steps
        self._unsent: dict[int, Point] = {}
        self._sent_at = time.monotonic()

    def __enter__(self) -> Curve:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._unsent = self._keep_newest()
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is None:
            self._keep_newest()
            self._send(max(self._unsent, default=0))

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """The metrics of `step` are in the file, and in MLflow when they can't come again."""
        point = self._unsent[step] = Point(step, _now_ms(), metrics)
        self._file.write(_line(point))
        self._file.flush()
        if time.monotonic() - self._sent_at > FLUSH_SECONDS:
            try:
                self._send((step - 1) // self._every_steps * self._every_steps)
            except (UnreachableError, DeniedError) as error:  # a token may expire meanwhile
                log.warning("training goes on; its metrics are sent later: %s", error)
                self._sent_at = time.monotonic()

    def _send(self, last_step: int) -> None:
        """Every point up to this step is in MLflow."""
        ready = [self._unsent[step] for step in sorted(self._unsent) if step <= last_step]
        if ready:
            self._registry.log_curve(self._run_id, ready)
            self._unsent = {s: p for s, p in self._unsent.items() if s > last_step}
        self._sent_at = time.monotonic()

    def _keep_newest(self) -> dict[int, Point]:
        """The file has one line a step, the newest, and no half line that a kill left."""
        whole, _, _ = self._path.read_text("utf-8").rpartition("\n")
        newest = {point.step: point for point in map(_point, whole.splitlines())}
        write_text(self._path, "".join(_line(newest[step]) for step in sorted(newest)))
        return newest


def _line(point: Point) -> str:
    return json.dumps({"step": point.step, "at_ms": point.at_ms, **point.metrics}) + "\n"


def _point(line: str) -> Point:
    """Where a line has no time, as those of an older release, it is now."""
    metrics = json.loads(line)
    return Point(metrics.pop("step"), metrics.pop("at_ms", _now_ms()), metrics)


def _now_ms() -> int:
    return int(time.time() * 1000)
