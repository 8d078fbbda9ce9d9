"""Whether other work takes the cores that a model's threads would run on.

Those threads wait for each other after every operation, so that one that finds no core holds all of
them up: on two cores beside another busy process a step of a tiny model took 13 and 130 times as
long as alone, and with one thread 2 to 3 times (torch 2.13, 8 texts of 32 tokens). Called by
`updater.pipeline` before a step that works with a model.
"""

import logging
import os
from functools import cache

import psutil

log = logging.getLogger("updater")

LOOKED_SECONDS = 0.25
BUSY_CORES = 0.5
"""So many cores' worth of other work is said. Chosen: more than what a desktop does by itself."""


@cache
def warn() -> None:
    """What slows down here is said, once in a process, and what helps."""
    import torch

    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ or threads == 1 or torch.cuda.is_available():
        return
    cores = psutil.cpu_count() or 1
    busy = psutil.cpu_percent(LOOKED_SECONDS) / 100 * cores  # of others: this process sleeps
    if busy >= BUSY_CORES and busy + threads > cores:
        log.warning(
            "other work keeps %.1f of this machine's %d cores busy: the %d threads of a model wait "
            "for each other, which can make it many times slower; set OMP_NUM_THREADS=1",
            busy,
            cores,
            threads,
        )
