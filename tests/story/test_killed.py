"""Killed with SIGKILL after and within every step, then run again: the same end state."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from updater import outcome, pipeline
from updater.workspace import Workspace

DRIVER = Path(__file__).with_name("kill_driver.py")


def end_state(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on kills, read back from the stores."""
    workspace = Workspace.open(folder)
    ledger = workspace.ledger
    version = ledger.model_version("2")
    update = ledger.update(str(version.update))
    answer = outcome.update(workspace, update)
    for name in ("seconds", "compute_seconds"):
        answer.pop(name)
    status = outcome.status(workspace)
    status["release"].pop("at")
    events = [(e.kind, e.version, e.previous) for e in ledger.events()]
    import mlflow

    client = mlflow.MlflowClient(workspace.mlflow_uri)
    runs = client.search_runs([client.get_experiment_by_name("story").experiment_id])
    return {
        "answer": answer,
        "status": status,
        "events": events,
        "digest": version.digest,
        "versions": [v.id for v in ledger.model_versions()],
        "datasets": [(d.id, d.digest) for d in ledger.dataset_versions()],
        "registered": sorted(v.version for v in client.search_model_versions("name='story'")),
        "runs": sorted((r.info.run_name, r.info.status) for r in runs),
        "metrics": sorted(
            (r.info.run_name, k, v)
            for r in runs
            for k, v in r.data.metrics.items()
            if k.startswith("accuracy")
        ),
    }


@pytest.mark.slow
def test_killed_everywhere_the_update_ends_as_if_it_had_not_been(folder: Path) -> None:
    # In a process of its own: copying an open SQLite file drops this process's locks on it.
    first = (
        "import sys; from pathlib import Path; from updater import pipeline\n"
        "from updater.initialise import init_workspace\n"
        "workspace = init_workspace(Path(sys.argv[1]))\n"
        "pipeline.scratch(workspace, ['north', 'east'], deploy=True)"
    )
    subprocess.run([sys.executable, "-c", first, str(folder)], check=True, capture_output=True)
    undisturbed = folder.with_name("undisturbed")
    shutil.copytree(folder, undisturbed, symlinks=True)
    pipeline.update(Workspace.open(undisturbed), "south")

    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), "south"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *killed, last = json.loads(done.stdout.strip().splitlines()[-1])
    assert [point for point, code in killed if code != -9] == []
    assert last == ["None", 0]
    assert end_state(folder) == end_state(undisturbed)
