"""A process that ends with the one that started it, however that ends.

A kill of the update would not reach torchrun's processes, to each of which it gives a session of
its own. Called by `updater.launch.torchrun` and `updater.launch.worker`.
"""

import ctypes
import os
import signal
import sys

PARENT = "UPDATER_LAUNCH_PARENT"
"""The environment's variable with the process id of who started this one, where that is told."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def end_with_parent() -> None:
    """The kernel kills this process when the one that started it has ended; now, if it has ended
    already. Linux alone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        raise SystemExit("the process that started this one has ended")
