"""Runs one update again and again, killed at one more point of its search each time, then whole.

    python search_driver.py WORKSPACE PERIOD

Prints a JSON list of how each attempt ended, as `kill_driver`, whose machinery this is.
"""

import importlib
import json
import sys
from pathlib import Path

from kill_driver import PRELOADED, attempt

POINTS = [
    ("updater.steps.search", "_Search._begun", "after", 1),
    ("updater.train.state", "save", "after", 1),  # in the middle of the first trial
    ("updater.steps.search", "_Search._tried", "after", 1),  # judged, not yet written
    ("updater.steps.search", "_Search._add_trial", "after", 1),
    ("updater.steps.search", "_Search._add_trial", "after", 1),
    ("updater.trials", "winner", "after", 1),
    ("updater.steps.search", "tuned", "after", 1),
    ("updater.train.state", "save", "after", 1),  # in the training itself
    ("store.ledger", "Ledger.finish_step", "before", 1),
]

if __name__ == "__main__":
    for name in (*PRELOADED, "optuna", "updater.steps.search"):
        importlib.import_module(name)
    folder, period = Path(sys.argv[1]), sys.argv[2]
    ended = [attempt(folder, period, point) for point in [*POINTS, None]]
    sys.stdout.write(json.dumps(ended) + "\n")
