"""The training curve while it grows: a line a step in train_metrics.jsonl, and MLflow behind it.

The file is the truth; MLflow gets the points in batches, and where it can't be reached the
training goes on and the rest is sent at the end. A resumed training repeats the steps after its
last checkpoint: the file keeps one line a step, the newest.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from store.errors import UnreachableError
from updater.files import write_text

if TYPE_CHECKING:
    from store.registry import Registry

FLUSH_SECONDS = 5.0  # chosen so that a batch to MLflow (about 0.05 s) costs about 1 % of the time
log = logging.getLogger("updater")


class Curve:
    """Metrics of one training, by step; a context manager that sends what is left at its end."""

    def __init__(self, registry: Registry, run_id: str, folder: Path) -> None:
        self._registry = registry
        self._run_id = run_id
        self._path = folder / "train_metrics.jsonl"
        self._unsent: list[tuple[int, dict[str, float]]] = []
        self._sent_at = time.monotonic()

    def __enter__(self) -> Curve:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._cut_torn_line()
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
            self._send()

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """The metrics of `step` are in the file, and soon in MLflow."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        self._unsent.append((step, metrics))
        if time.monotonic() - self._sent_at > FLUSH_SECONDS:
            try:
                self._send()
            except UnreachableError as unreachable:
                log.warning("training goes on; its metrics are sent later: %s", unreachable)
                self._sent_at = time.monotonic()

    def _send(self) -> None:
        if self._unsent:
            self._registry.log_curve(self._run_id, self._unsent)
            self._unsent.clear()
        self._sent_at = time.monotonic()

    def _cut_torn_line(self) -> None:
        """A kill in the middle of a write leaves half a line, which would spoil the next one."""
        if self._path.exists():
            whole = self._path.read_text("utf-8")
            if not whole.endswith("\n"):
                write_text(self._path, whole[: whole.rfind("\n") + 1])

    def _keep_newest(self) -> None:
        lines = [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]
        newest = {line["step"]: line for line in lines}
        write_text(self._path, "".join(json.dumps(newest[s]) + "\n" for s in sorted(newest)))
