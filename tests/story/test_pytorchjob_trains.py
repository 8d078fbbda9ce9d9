"""What a PyTorchJob's pods run is one training: both pods as processes on loopback, over gloo.

Each has its command and environment as rendered, what the operator would add to them, and nothing
of the other's but the volume. Only names are exchanged: there are no pods to be called by theirs.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import answered, command, said
from safetensors.torch import load_file

from updater.nemotron import files
from updater.workspace import Workspace

pytestmark = pytest.mark.slow

CHOSEN = ("--set", "training.epochs=1")  # rounding grows over the steps
CODE = "from updater.cli import main; main()"


def opened(folder: Path) -> str:
    """The update of a workspace that is laid out, opened and not trained yet."""
    with (folder / "updater.toml").open("a") as file:
        file.write(f'[kubernetes]\nimage = "updater:0.1.0"\nmount_path = "{folder.parent}"\n')
    answered(folder, "init", str(folder))
    answered(folder, "scratch", "--periods", "north", "--deploy")
    update: str = command(folder, "step", "ingest", "--period", "east", *CHOSEN)["update"]
    return update


def prepare(folder: Path, update: str) -> None:
    """The step train comes next."""
    for step in ("rehearse", "importance"):
        answered(folder, "step", step, "--update", update, *CHOSEN)


def weights(folder: Path, version: str) -> dict[str, torch.Tensor]:
    workspace = Workspace.open(folder)
    digest = workspace.ledger.model_version(version).digest
    return load_file(workspace.checkpoints.local(digest) / files.SINGLE)


def operators(index: int, nodes: int, job: str, port: int) -> dict[str, str]:
    """What the training operator adds to a pod's environment (its release 1.9, setPodEnv)."""
    return {
        "PYTHONUNBUFFERED": "1",
        "MASTER_PORT": str(port),
        "PET_MASTER_PORT": str(port),
        "MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": str(nodes),
        "RANK": str(index),
        "PET_NODE_RANK": str(index),
        "PET_NPROC_PER_NODE": "1",
        "PET_NNODES": str(nodes),
        "KUBERNETES_PORT": "tcp://10.0.0.1:443",
        "HOSTNAME": f"{job}-{'worker' if index else 'master'}-0",
    }


def start(job: dict[str, Any], replica: str, port: int, home: Path) -> subprocess.Popen[str]:
    """The pod's container as a process, its own variables first as in a pod."""
    pod = job["spec"]["pytorchReplicaSpecs"][replica]["template"]["spec"]["containers"][0]
    name = job["metadata"]["name"]

    def here(text: str) -> str:
        return text.replace(f"{name}-master-0:29400", f"127.0.0.1:{port}")

    program, *words = map(here, pod["command"])
    programs = {"updater": [sys.executable, "-c", CODE], "python": [sys.executable]}
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    own = {one["name"]: here(one["value"]) for one in pod["env"]} | {"HOME": str(home)}
    added = operators(0 if replica == "Master" else 1, 2, name, port)
    return subprocess.Popen(
        [*programs[program], *words],
        env={**kept, "OMP_NUM_THREADS": "1", "UPDATER_TRAINING_EPOCHS": "1", **own, **added},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_pods_come_to_what_one_process_does(
    lay_out: Callable[[Path], Path], tmp_path: Path
) -> None:
    alone = lay_out(tmp_path / "alone")
    update = opened(alone)
    prepare(alone, update)
    one = command(alone, "step", "train", "--update", update, *CHOSEN)
    folder = lay_out(tmp_path / "pods")
    update = opened(folder)
    refused = said(folder, "pytorchjob", update, *CHOSEN, code=2)[1]
    assert f"run `updater step rehearse --update {update}`" in refused
    prepare(folder, update)
    refused = said(folder, "pytorchjob", update, "--set", "training.epochs=3", code=2)[1]
    assert "training.epochs" in refused
    asked = ("pytorchjob", update, *CHOSEN, "--set", "training.nodes=2")
    job = yaml.safe_load(said(folder, *asked)[0])
    assert command(folder, *asked) == job
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The other pod is there first, as it may be: it waits for the one that it calls.
    other = start(job, "Worker", port, tmp_path)
    time.sleep(3)
    first = start(job, "Master", port, tmp_path)
    try:
        told, _ = first.communicate(timeout=200)
        assert first.returncode == 0, told[-3000:]
        told, _ = other.communicate(timeout=60)
        assert other.returncode == 0, told[-3000:]
    finally:
        for process in (first, other):
            process.kill()
            process.wait()
    many = command(folder, "step", "train", "--update", update, *CHOSEN)  # returned as it was
    for counted in ("num_steps", "num_examples", "num_tokens"):
        assert many[counted] == one[counted]
    before, trained = weights(folder, "1"), weights(folder, many["version"])
    expected = weights(alone, one["version"])
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in expected.items())
    assert moved > 1e-3
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0.01 * moved, msg=name)
    assert "is finished" in said(folder, *asked, code=2)[1]
    assert "north-1" in said(folder, "pytorchjob", "north-1", code=2)[1]
