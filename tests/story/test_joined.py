"""An update by two machines, by the command line: one is asked, the other has joined. Both are this
one, and nothing is between them but the workspace and loopback."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import answered, command, said
from safetensors.torch import load_file

from updater.nemotron import files
from updater.workspace import Workspace

pytestmark = pytest.mark.slow

CODE = "from updater.cli import main; main()"
LORA = ("--set", "training.adapt=lora", "--set", "training.epochs=1")
TWO = [
    *("--set", "training.nodes=2", "--set", "training.nodes_for=all"),
    *("--set", "training.rendezvous=auto", "--set", "training.strategy=fsdp"),
]


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """A function: another machine joins the workspace; the file of what it says."""
    processes = []

    def join(folder: Path) -> Path:
        told = tmp_path / "joined.log"
        with told.open("w") as log:
            words = [sys.executable, "-c", CODE, "join", "--workspace", str(folder)]
            environ = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
            processes.append(subprocess.Popen(words, stdout=log, stderr=log, env=environ))
        return told

    yield join
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def weights(folder: Path, version: str) -> dict[str, torch.Tensor]:
    workspace = Workspace.open(folder)
    digest = workspace.ledger.model_version(version).digest
    return load_file(workspace.checkpoints.local(digest) / files.SINGLE)


def test_two_machines_come_to_what_one_does(
    lay_out: Callable[[Path], Path], joined: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = {}
    for name, more in (("alone", []), ("two", TWO)):
        folder = lay_out(tmp_path / name)
        answered(folder, "init", str(folder))
        answered(folder, "scratch", "--periods", "north", "--deploy")
        if more:
            log = joined(folder)
            refused = said(folder, "update", "east", *LORA, *more[:4], code=2)[1]
            assert "rendezvous" in refused
        update = command(folder, "update", "east", *LORA, *more)
        found[name] = (weights(folder, "1"), weights(folder, update["candidate"]), update["scores"])
    before, expected, scores = found["alone"]
    _, trained, same = found["two"]
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in expected.items())
    assert moved > 1e-4
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0.01 * moved, msg=name)
    assert same.keys() == scores.keys()
    for period, said_of in scores.items():
        assert same[period] == pytest.approx(said_of, abs=0.05)
    told = log.read_text()
    parts = [line.split("takes part in ")[1] for line in told.splitlines() if "takes part" in line]
    for what in ("a training", "an estimate of importance", "an evaluation"):
        assert any(part.startswith(f"{what}, called by") for part in parts), told
    assert told.count("is done") == len(parts), told
    assert not list((tmp_path / "two" / "cache" / "calls").glob("*.json"))
    refused = said(folder, "pytorchjob", "any", *TWO, code=2)[1]
    assert "let pods run `updater join`" in refused
