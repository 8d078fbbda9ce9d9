"""A worker of which the second process runs out of memory while it is asked.

python -m torch.distributed.run failing_driver.py FOLDER
"""

import os

from updater import evaluate
from updater.launch import worker


def fail(*_: object, **__: object) -> None:
    raise MemoryError("of this one alone")


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        evaluate.greedy = fail
    worker.main()
