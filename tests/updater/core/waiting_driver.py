"""A worker whose processes wait for each other for seconds only, and in which hashing an importance
takes longer than that.

python -m torch.distributed.run waiting_driver.py FOLDER
"""

import time
from datetime import timedelta
from typing import Any

from torch import distributed

from regularizers import stored
from updater.launch import worker

SECONDS = 20
whole = distributed.init_process_group


def impatient(backend: str) -> None:
    """As NCCL, whose processes wait ten minutes, and hashes hundreds of gigabytes in more."""
    whole(backend, timeout=timedelta(seconds=SECONDS))


def slow(*_: Any) -> None:
    time.sleep(3 * SECONDS)


if __name__ == "__main__":
    distributed.init_process_group = impatient
    stored.verify = slow
    worker.main()
