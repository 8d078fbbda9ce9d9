"""A version is made smaller, judged beside its base on every period, deployed by a person; and the
next update begins at what it was made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import answered

from updater.nemotron import checkpoint
from updater.workspace import Workspace

pytestmark = pytest.mark.slow

QUICK = ("training.epochs=1", "scratch.epochs=10", "gate.margin_fraction=0.3")
NAMES = {"version", "base", "num_parameters", "nonzero_fraction", "bytes", "base_bytes", "scores"}


def settings(*more: str) -> list[str]:
    return [word for one in (*QUICK, *more) for word in ("--set", one)]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace whose deployed version 1 has learnt north and east. Not to be written to."""
    folder = lay_out(tmp_path_factory.mktemp("learnt") / "ws")
    answered(folder, "init", str(folder))
    answered(folder, "scratch", "--periods", "north", "east", "--deploy", *settings())
    return folder


@pytest.fixture(scope="module")
def line(learnt: Path) -> Path:
    """The same, with version 2: version 1 without a third of its weights, by OBD."""
    compressed(learnt, "1", "--method", "obd", "--sparsity", "0.3")
    return learnt


def compressed(folder: Path, version: str, *options: str) -> dict[str, Any]:
    answer, _ = answered(folder, "compress", version, *options, *settings())
    return answer


def test_it_answers_by_the_contract(line: Path) -> None:
    answer = compressed(line, "1", "--method", "obd", "--sparsity", "0.3")
    assert answer.keys() >= NAMES
    assert (answer["version"], answer["base"]) == ("2", "1")
    assert answer["scores"].keys() == {"north", "east"}
    for score in answer["scores"].values():
        assert score.keys() == {"base", "candidate", "num_examples"}
        assert score["num_examples"] > 20
    assert answer["bytes"] == answer["base_bytes"]
    assert not answer["promoted"]
    assert answer["verdict"] in ("accepted", "review")
    shown, _ = answered(line, "show", "2")
    assert (shown["kind"], shown["base"], shown["learnt"]) == ("compress", "1", ["north", "east"])
    status, _ = answered(line, "status")
    assert status["awaiting_approval"] == [answer["update"]]


def test_three_tenths_of_the_matrices_weights_are_gone(line: Path) -> None:
    from updater.compress.weights import is_prunable
    from updater.nemotron.weights import released

    workspace = Workspace.open(line)
    models = {
        version: dict(
            released(
                checkpoint.load(
                    workspace.checkpoints.local(workspace.ledger.model_version(version).digest)
                )[0]
            )
        )
        for version in ("1", "2")
    }
    gone = whole = 0
    for name, weight in models["2"].items():
        before = models["1"][name]
        if is_prunable(name, attention=False):
            stays = weight != 0
            assert torch.equal(weight[stays], before[stays]), name
            gone, whole = gone + int((~stays).sum()), whole + weight.numel()
        else:
            assert torch.equal(weight, before), name
    assert gone == round(0.3 * whole)
