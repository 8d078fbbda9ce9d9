"""Runs one update again and again, killed at one more point each time, and then to its end.

    python kill_driver.py WORKSPACE PERIOD

Everything is imported once; each attempt is a fork, so that a kill -9 costs no imports. Prints a
JSON list of [point, how the attempt ended].
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from updater import pipeline
from updater.workspace import Workspace

PRELOADED = (
    "dvc.repo",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "updater.evaluate",
    "updater.ingest",
    "updater.nemotron.checkpoint",
    "updater.report.collect",
    "updater.report.figures",
    "updater.report.page",
    "updater.train.fit",
    "updater.train.importance",
)
# (module, what to reach in it, before or after the call; which call)
POINTS = [
    ("updater.ingest", "ingest", "after", 1),
    ("store.datasets", "Datasets.commit", "after", 1),
    ("store.ledger", "Ledger.record_dataset_version", "after", 1),
    ("store.ledger", "Ledger.open_update", "after", 1),
    ("rehearsal.manifest", "Manifest.to_json", "after", 1),
    ("store.ledger", "Ledger.finish_step", "before", 1),
    ("regularizers.importance", "save", "before", 1),
    ("regularizers.importance", "save", "after", 1),
    ("updater.steps.curve", "Curve.add", "after", 3),
    ("updater.steps.curve", "Curve.add", "after", 5),
    ("updater.nemotron.checkpoint", "export", "before", 1),
    ("updater.nemotron.checkpoint", "export", "after", 1),
    ("store.checkpoints", "Checkpoints.add", "after", 1),
    ("store.registry", "Registry.register", "after", 1),
    ("store.ledger", "Ledger.record_model_version", "after", 1),
    ("store.ledger", "Ledger.record_scores", "before", 1),
    ("store.ledger", "Ledger.record_scores", "after", 1),
    ("store.ledger", "Ledger.append", "after", 1),
    ("store.ledger", "Ledger.record_verdict", "after", 1),
    ("store.ledger", "Ledger.append_release", "before", 1),
    ("store.ledger", "Ledger.append_release", "after", 1),
    ("store.aliases", "Aliases.set", "after", 1),
    ("store.registry", "Registry.log_scores", "after", 1),
    ("store.registry", "Registry.close_run", "after", 1),
    ("store.ledger", "Ledger.finish_step", "after", 1),
]


def arm(module: str, path: str, when: str, nth: int) -> None:
    """The `nth` call of this function kills the process, before or after doing its work."""
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real: Callable[..., Any] = getattr(owner, name)
    num_calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if num_calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def attempt(folder: Path, period: str, point: tuple[str, str, str, int] | None) -> int:
    """The wait status of one forked attempt."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            if point is not None:
                arm(*point)
            workspace = Workspace.open(folder)
            with workspace.lock():
                pipeline.update(workspace, period)
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for module_name in PRELOADED:
        importlib.import_module(module_name)
    workspace_folder, wanted = Path(sys.argv[1]), sys.argv[2]
    ended = [(str(point), attempt(workspace_folder, wanted, point)) for point in [*POINTS, None]]
    sys.stdout.write(json.dumps(ended) + "\n")
