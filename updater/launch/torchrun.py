"""torchrun as the service starts it: it ends with the process that started it."""

import os
import sys
import tempfile

from torch.distributed import run

from updater.launch.meeting import network, own_address, place_of
from updater.launch.parent import PARENT, end_with_parent

if __name__ == "__main__":
    end_with_parent()
    os.environ[PARENT] = str(os.getpid())
    # Python would look for modules in the current folder first, and find a clone's there.
    os.environ["PYTHONSAFEPATH"] = "1"
    # Processes that are started again would find the addresses of those that died, in the store
    # that torchrun shares with them (pytorch/pytorch#135712), and wait for them for ever.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    words = sys.argv[1:]
    if place := place_of(words):
        address = own_address(place)
        os.environ.update({**network(address), **os.environ})  # what somebody has set is right
        if "PET_LOCAL_ADDR" not in os.environ:
            words = [f"--local-addr={address}", *words]
    with tempfile.TemporaryDirectory(prefix="torchrun-") as logs:  # torchrun would leave its own
        run.main(["--log-dir", logs, *words])
