"""Updates by two processes: the same commands, and what one process would have come to."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import answered
from safetensors.torch import load_file

from updater.nemotron import files
from updater.workspace import Workspace

pytestmark = pytest.mark.slow

TOGETHER = ("--set", "training.devices=2")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace with a deployed version of north, by one process."""
    folder = lay_out(tmp_path_factory.mktemp("together") / "ws")
    answered(folder, "init", str(folder))
    answered(folder, "scratch", "--periods", "north", "--deploy")
    return folder


def weights(folder: Path, version: str) -> dict[str, torch.Tensor]:
    workspace = Workspace.open(folder)
    digest = workspace.ledger.model_version(version).digest
    return load_file(workspace.checkpoints.local(digest) / files.SINGLE)


@pytest.mark.parametrize("method", ["ewc", "l2", "si", "der++"])
def test_two_processes_come_to_what_one_does(begun: Path, method: str) -> None:
    chosen = ("--set", f"regularizer.method={method}")
    if method == "si":  # what holds is what the version's own training recorded
        chosen = (*chosen, "--set", "regularizer.strength=0")
    one, _ = answered(begun, "update", "east", *chosen)
    two, _ = answered(begun, "update", "east", *chosen, *TOGETHER)
    assert one["candidate"] != two["candidate"]
    expected, found = weights(begun, one["candidate"]), weights(begun, two["candidate"])
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-4, msg=name)
