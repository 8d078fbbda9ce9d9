"""A deployed checkpoint with a drafting head: what becomes of the head in an update."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import answered
from heads import with_head
from safetensors.torch import load_file, save_file

from updater import opening
from updater.nemotron import checkpoint, files
from updater.report.collect import collect
from updater.report.page import render
from updater.workspace import Workspace

pytestmark = pytest.mark.slow


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("work was begun")


def checkpoint_of(folder: Path, version: str) -> Path:
    workspace = Workspace.open(folder)
    return workspace.checkpoints.local(workspace.ledger.model_version(version).digest)


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[[Path], Path]) -> Path:
    """A workspace whose deployed version, of north, has no head."""
    folder = lay_out(tmp_path_factory.mktemp("headless") / "ws")
    answered(folder, "init", str(folder))
    answered(folder, "scratch", "--periods", "north", "--deploy")
    return folder


@pytest.fixture
def headed(headless: Path, lay_out: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A workspace that has adopted the same with one."""
    released = with_head(checkpoint_of(headless, "1"), tmp_path / "released")
    folder = lay_out(tmp_path / "ws")
    answered(folder, "init", str(folder))
    answered(folder, "adopt", str(released), "--periods", "north")
    return folder


@pytest.mark.parametrize(("mtp", "devices"), [("keep", 1), ("align", 1), ("align", 2)])
def test_the_head_is_the_bases_or_drafts_better(
    headed: Path, monkeypatch: pytest.MonkeyPatch, bars: list[str], mtp: str, devices: int
) -> None:
    chosen = ["--set", f"training.mtp={mtp}", "--set", f"training.devices={devices}"]
    if devices > 1:
        chosen += ["--set", "regularizer.method=none"]  # processes are slow to start

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the calling process loads a model")

        monkeypatch.setattr(checkpoint, "load", refuse)
    answer, _ = answered(headed, "update", "east", *chosen)
    was, now = (
        load_file(checkpoint_of(headed, version) / files.SINGLE)
        for version in ("1", answer["candidate"])
    )
    assert was.keys() == now.keys()
    moved = {name for name in now if not torch.equal(now[name], was[name])}
    assert any(name.startswith("backbone.") for name in moved)
    assert any(name.startswith("mtp.") for name in moved) is (mtp == "align")
    result = json.loads(next(headed.glob("runs/*/fit.json")).read_text())
    assert [bar for bar in bars if bar not in ("importance", "evaluate")] == (
        ["train", "align"] if mtp == "align" else ["train"]
    )
    if mtp == "keep":
        assert "mtp" not in result
        return
    told = result["mtp"]
    assert told["num_steps"] == result["num_steps"]
    assert 0 < told["num_examples"] <= 256
    assert len(told["acceptance_before"]) == len(told["acceptance_after"]) == 2
    assert told["acceptance_after"][0] > told["acceptance_before"][0]
    assert result["compute_seconds"] > told["compute_seconds"] > 0
    assert not list(headed.glob("runs/*/drafting"))
    data = collect(Workspace.open(headed), answer["candidate"])
    summary = data.summary()
    assert summary["draft_acceptance_before"] == told["acceptance_before"][0]
    assert summary["draft_acceptance_after"] == told["acceptance_after"][0]
    assert "What the head drafts" in render(data)


ALIGN = ("--set", "training.mtp=align")


@pytest.mark.parametrize("command", [("update", "east"), ("step", "ingest", "--period", "east")])
def test_a_head_that_is_not_there_is_told_before_the_update_is_opened(
    headless: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Also by what opens an update in Airflow, where no model need be in reach."""
    monkeypatch.setattr(opening.ingest, "version_period", refuse)
    _, said = answered(headless, *command, *ALIGN, code=2)
    assert 'training.mtp = "align", but version 1 has no multi-token-prediction head' in said
    assert 'take training.mtp = "keep", or the release with its mtp.* tensors' in said
    assert answered(headless, "status")[0]["unfinished"] == []


def test_doctor_tells_that_there_is_no_head_to_align(headless: Path, headed: Path) -> None:
    assert "Traceback" not in answered(headless, "doctor", "--no-timing")[1]
    _, said = answered(headless, "doctor", "--no-timing", *ALIGN, code=2)
    assert "has no multi-token-prediction head" in said
    assert 'take training.mtp = "keep"' in said
    assert answered(headed, "doctor", "--no-timing", *ALIGN)[0]["model"]["mtp"] == "whole"


@pytest.mark.parametrize("shards", [False, True])
def test_a_head_whose_tensors_were_dropped_is_told_before_the_base_is_loaded(
    headless: Path,
    lay_out: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    shards: bool,
) -> None:
    """config.json still speaks of it. An index tells before the update is opened; without one the
    first step that works with the model does."""
    folder, dropped = lay_out(tmp_path / "ws"), tmp_path / "dropped"
    with_head(checkpoint_of(headless, "1"), dropped)
    kept = {n: t for n, t in load_file(dropped / files.SINGLE).items() if not n.startswith("mtp.")}
    (dropped / files.SINGLE).unlink()
    save_file(kept, dropped / ("one.safetensors" if shards else files.SINGLE), {"format": "pt"})
    if shards:
        index = {"weight_map": dict.fromkeys(kept, "one.safetensors")}
        (dropped / files.INDEX).write_text(json.dumps(index))
    answered(folder, "init", str(folder))
    answered(folder, "adopt", str(dropped), "--periods", "north")
    monkeypatch.setattr(checkpoint, "load", refuse)
    _, said = answered(folder, "update", "east", *ALIGN, code=2)
    assert "has no multi-token-prediction head" in said
    assert len(answered(folder, "status")[0]["unfinished"]) == (0 if shards else 1)
