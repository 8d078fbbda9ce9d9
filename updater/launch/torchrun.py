"""torchrun as the service starts it: it ends with the process that started it, however that ends.

A kill of the update would not reach torchrun's own processes, to each of which it gives a session
of its own: each of them asks for the same.
"""

import ctypes
import signal
import sys

from torch.distributed import run

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def end_with_parent() -> None:
    """The kernel kills this process when the one that started it has ended. Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    run.main(sys.argv[1:])
