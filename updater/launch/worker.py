"""One of the processes that do one thing together, as torchrun starts it:

    python -m torch.distributed.run --nproc-per-node 2 -m updater.launch.worker FOLDER

FOLDER holds the task (`updater.launch.task`), and in the end what came of it. Talks to no store;
the first of the processes writes, and is heard.
"""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from updater.errors import InputError, UpdateError
from updater.launch import answer, task
from updater.launch.ask import ask
from updater.launch.draft import draft
from updater.launch.learn import learn
from updater.launch.parent import end_with_parent
from updater.launch.weigh import weigh
from updater.train.ranks import Ranks

_LONGEST = timedelta(hours=2)
"""For which the first may write what came of it: chosen, for a terabyte."""

_LAST_SECONDS = 1.0
"""torchrun looks ten times a second who has ended, and takes the first that it sees for what ended
the others."""


def main() -> None:
    """The task in the folder of the first argument is done, or why not stands there."""
    end_with_parent()
    folder = Path(sys.argv[1])
    try:
        _work(folder)
    except (InputError, UpdateError) as error:
        answer.refuse(folder, error)
        raise SystemExit(1) from error
    except Exception as error:
        answer.crash(folder, int(os.environ["RANK"]), error)
        time.sleep(_LAST_SECONDS)  # it may have lost one that was killed, which is to be seen first
        raise


def _work(folder: Path) -> None:
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    # Made by all at once; the default group's own waiting ends after minutes.
    written = distributed.new_group(backend="gloo", timeout=_LONGEST)
    mesh = None
    if task.is_sharded(folder):
        mesh = init_device_mesh(torch.device(device).type, (world,))
    _WORK[task.kind_of(folder)](folder, Ranks(rank, world, mesh), device)
    # torchrun starts none again once a machine's have all ended, and the first still writes.
    distributed.barrier(written)
    distributed.destroy_process_group()  # after an error it could wait for those that hang


_WORK = {
    task.Learning.KIND: learn,
    task.Weighing.KIND: weigh,
    task.Drafting.KIND: draft,
    task.Asking.KIND: ask,
}


if __name__ == "__main__":
    main()
