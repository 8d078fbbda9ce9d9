"""How far a loop is, how fast, and how long it still takes, on stderr.

On a terminal a bar; elsewhere, as in a log file, a line now and then. Not metrics, and nothing
that a program should read. Called by the ingest step, the training, the importance and the
evaluation.
"""

import shutil
import sys
from typing import Any

from tqdm import tqdm

# Judged, not measured: a loop that is over at once needs no bar, and a log no line a second.
TERMINAL = {"mininterval": 0.1, "delay": 0.5}
LINES = {"mininterval": 10.0, "delay": 10.0, "ncols": 0}  # 0: the numbers without the bar


class Progress(tqdm):
    """Counts examples, or other units, up to `total`, or for ever where it is None.

    `done` of them were done before: the rate is that of the others. A context manager, which leaves
    its last state behind; silent where `shown` is false.
    """

    monitor_interval = 0  # tqdm's own thread is for loops that don't look at the clock each time

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        done: int = 0,
        unit: str = "examples",
        shown: bool = True,
    ) -> None:
        how: dict[str, Any] = LINES | {"file": _Lines()}
        if sys.stderr.isatty():
            # tqdm itself would show nothing on a terminal that does not tell its size.
            columns, lines = shutil.get_terminal_size()
            how = TERMINAL | {"ncols": columns, "nrows": lines}
        super().__init__(
            desc=title,
            total=total,
            initial=done,
            unit=f" {unit}",
            disable=not shown,
            miniters=1,
            **how,
        )

    def reach(self, num_done: int) -> None:
        """So many are done in all."""
        self.update(num_done - self.n)


class _Lines:
    """stderr where no line can be written over: what tqdm shows in one place comes line by line."""

    def write(self, text: str) -> None:
        shown = text.strip()
        if shown:
            sys.stderr.write(f"{shown}\n")

    def flush(self) -> None:
        sys.stderr.flush()
