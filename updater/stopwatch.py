"""How long a step computes, apart from what it does around it: imports, reading, writing, stores.

The difference is what the service costs on top of the science; `bench/stream.py` holds it
to a target.
"""

import time


class Stopwatch:
    """`seconds` spent in all its `with` blocks together; they don't nest."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        self._started_at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._started_at
