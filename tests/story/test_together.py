"""An update by two processes: the same commands, and what one process comes to."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import answered
from safetensors.torch import load_file

from updater.nemotron import checkpoint, files
from updater.workspace import Workspace

pytestmark = pytest.mark.slow


def weights(folder: Path, version: str) -> dict[str, torch.Tensor]:
    workspace = Workspace.open(folder)
    digest = workspace.ledger.model_version(version).digest
    return load_file(workspace.checkpoints.local(digest) / files.SINGLE)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("method", [pytest.param("ewc", marks=pytest.mark.torchrun), "si"])
def test_two_processes_come_to_what_one_does(
    lay_out: Callable[[Path], Path], tmp_path: Path, method: str
) -> None:
    chosen = ("--set", f"regularizer.method={method}")
    found = []
    for devices in (1, 2):
        folder = lay_out(tmp_path / f"by-{devices}")
        answered(folder, "init", str(folder))
        answered(folder, "scratch", "--periods", "north", "--deploy", *chosen)
        short = (*chosen, "--set", "training.epochs=1")  # rounding grows over the steps
        many = (*short, "--set", f"training.devices={devices}")
        update, _ = answered(folder, "update", "east", *many)
        again, _ = answered(folder, "update", "east", *short)
        assert again["update"] == update["update"], "where it is trained makes no other update"
        found.append(weights(folder, update["candidate"]))
    one, two = found
    assert two.keys() == one.keys()
    before = weights(folder, "1")
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in one.items())
    for name, tensor in two.items():
        torch.testing.assert_close(tensor, one[name], rtol=0, atol=0.01 * moved, msg=name)


@pytest.mark.usefixtures("forked")
def test_all_that_a_whole_update_asks_of_the_model_is_by_two_processes(
    lay_out: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that the base answers, importance, a search's trials, the scores and the check of the
    export: nothing is loaded by the process that called."""
    folder = lay_out(tmp_path / "ws")
    answered(folder, "init", str(folder))
    answered(folder, "scratch", "--periods", "north", "--deploy")
    settings = (
        *("training.devices=2", "rehearsal.policy=hard", "training.search.trials=2"),
        *("training.search.epochs_fraction=0.2", "training.search.strength=[1e-2,1e2]"),
    )

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the calling process loads a model")

    monkeypatch.setattr(checkpoint, "load", refuse)
    update, _ = answered(folder, "update", "east", *(w for s in settings for w in ("--set", s)))
    assert update["verdict"] in ("accepted", "rejected", "review")
    assert update["scores"]["east"]["candidate"] > update["scores"]["east"]["base"]
    workspace = Workspace.open(folder)
    [verified] = [
        event
        for event in workspace.ledger.events(kind="verified")
        if event.version == update["candidate"]
    ]
    assert verified.payload["num_examples"] == sum(
        score["num_examples"] for score in update["scores"].values()
    )
    step = workspace.ledger.step(update["update"], "train")
    assert step is not None
    assert len(step.result["search"]["trials"]) == 2
    assert not list((folder / "cache").glob("asked-*"))
    assert not list((folder / "cache" / "importance").glob("*.processes"))
