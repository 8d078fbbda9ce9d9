"""A worker that asks a model in bfloat16, as one on a GPU does.

python -m torch.distributed.run bfloat16_driver.py FOLDER
"""

import torch

from updater.launch import worker
from updater.nemotron import dtypes

if __name__ == "__main__":
    dtypes.served_dtype = lambda *_: torch.bfloat16
    worker.main()
