"""One line on stderr that says how far a loop is, how fast, and how long it still takes.

Not metrics (`fit` hands those out). On a terminal the line is rewritten, elsewhere a new one is
written now and then. Called by `updater.train` and `updater.evaluate`.
"""

import sys
import time


class Progress:
    """Counts `total` examples. Silent where `shown` is false. Rates count from the first call, so
    a resumed run's are right: `done` examples were done before."""

    TERMINAL_SECONDS = 0.2
    LOG_SECONDS = 10.0

    def __init__(self, title: str, total: int, *, done: int = 0, shown: bool = True) -> None:
        self._title, self._total, self._done, self._before = title, total, done, done
        self._shown = shown and total > done
        self._terminal = self._shown and sys.stderr.isatty()
        self._started_at = self._written_at = time.monotonic()
        self._written = False

    @property
    def examples_per_second(self) -> float:
        """Examples a second since this object was made."""
        return (self._done - self._before) / max(time.monotonic() - self._started_at, 1e-9)

    def add(self, num_examples: int, note: str = "") -> None:
        """So many more are done; `note` is shown after the rate."""
        self._done += num_examples
        pause = self.TERMINAL_SECONDS if self._terminal else self.LOG_SECONDS
        if self._shown and time.monotonic() - self._written_at >= pause:
            self._write(note)

    def reach(self, num_examples: int) -> None:
        """So many are done in all."""
        self.add(num_examples - self._done)

    def close(self, note: str = "") -> None:
        """The last state is written and the line ended, if any line was begun."""
        if self._shown and self._written:
            self._write(note)
            if self._terminal:
                sys.stderr.write("\n")

    def _write(self, note: str) -> None:
        rate = self.examples_per_second
        left = int(max(self._total - self._done, 0) / rate) if rate else 0
        line = (
            f"{self._title} {self._done:,}/{self._total:,} ({self._done / self._total:.0%})"
            f"  {rate:,.0f} examples/s  {left // 60}:{left % 60:02} left  {note}"
        ).rstrip()
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()
        self._written_at, self._written = time.monotonic(), True
