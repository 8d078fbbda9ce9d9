"""A worker of a training by many processes, whose logits are made for a few tokens at a time.

python -m torch.distributed.run pieces_driver.py FOLDER
"""

from updater.launch import worker
from updater.train import likelihood

if __name__ == "__main__":
    likelihood.LOGITS_BYTES = 4 * 400 * 5  # five tokens of a vocabulary of 400
    worker.main()
