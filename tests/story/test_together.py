"""An update by two processes: the same commands, and what one process comes to."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import answered
from safetensors.torch import load_file

from updater.nemotron import files
from updater.workspace import Workspace

pytestmark = pytest.mark.slow


def weights(folder: Path, version: str) -> dict[str, torch.Tensor]:
    workspace = Workspace.open(folder)
    digest = workspace.ledger.model_version(version).digest
    return load_file(workspace.checkpoints.local(digest) / files.SINGLE)


@pytest.mark.parametrize("method", ["ewc", "si"])
def test_two_processes_come_to_what_one_does(
    lay_out: Callable[[Path], Path], tmp_path: Path, method: str
) -> None:
    chosen = ("--set", f"regularizer.method={method}")
    found = []
    for devices in (1, 2):
        folder = lay_out(tmp_path / f"by-{devices}")
        answered(folder, "init", str(folder))
        answered(folder, "scratch", "--periods", "north", "--deploy", *chosen)
        many = (*chosen, "--set", f"training.devices={devices}")
        update, _ = answered(folder, "update", "east", *many)
        again, _ = answered(folder, "update", "east", *chosen)
        assert again["update"] == update["update"], "where it is trained makes no other update"
        found.append(weights(folder, update["candidate"]))
    one, two = found
    assert two.keys() == one.keys()
    before = weights(folder, "1")
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in one.items())
    for name, tensor in two.items():  # at this rate rounding grows over the steps
        torch.testing.assert_close(tensor, one[name], rtol=0, atol=0.01 * moved, msg=name)
