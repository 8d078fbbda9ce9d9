"""A machine that trains what a task's folder tells, with others that have joined.

python calling_driver.py FOLDER CALLS
"""

import sys
from pathlib import Path

from updater.launch import together
from updater.launch.task import Learning
from updater.train.record import Watch

if __name__ == "__main__":
    folder, calls = map(Path, sys.argv[1:])
    task, lesson = Learning.read(folder)
    together.fit(task, lesson, folder=folder, watch=Watch(progress=False), calls=calls)
