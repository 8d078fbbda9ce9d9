"""Memory of a GPU that this process no longer needs, for the processes that it starts.

Called before one is: `updater.verify`, `updater.launch.processes`.
"""

import gc
import sys


def give_back() -> None:
    """What this process let go of on a GPU, other processes can have: PyTorch keeps it at hand for
    itself, and a model that lies in a cycle of references waits for Python to look for it."""
    gc.collect()
    torch = sys.modules.get("torch")  # a process that never imported it holds nothing
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
