"""A base that its last step broke, in the service's steps: the update's failure, and no defect."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch

from updater.errors import UpdateError
from updater.settings import RegularizerSettings
from updater.steps import rehearse, traces
from updater.stopwatch import Stopwatch
from updater.train.fit import Fit

BROKEN = torch.full((2, 2), torch.inf)


def test_nothing_is_chosen_by_losses_that_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = pa.table({"loss": [0.5, float("nan"), None]})
    monkeypatch.setattr(rehearse, "start_folder", lambda *_: Path("base"))
    monkeypatch.setattr(rehearse, "answers", lambda *_, **__: {"pool": losses})
    workspace: Any = SimpleNamespace(progress=False)
    update: Any = SimpleNamespace(base="v1")
    with pytest.raises(UpdateError, match=r"losses are no numbers.*rehearsal\.policy"):
        rehearse._score(workspace, update, Stopwatch())(losses)


def test_nothing_is_kept_of_a_trace_that_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate" / "config.json").write_text("{}")
    settings = SimpleNamespace(regularizer=RegularizerSettings(method="si"))
    workspace: Any = SimpleNamespace(settings=settings)
    update: Any = SimpleNamespace(config={"datasets": {}})
    done = Fit(1, 1, 1, 1.0, (1.0,), (), trace={"w": BROKEN}, moved={"w": BROKEN})
    with pytest.raises(UpdateError, match="importance of 'w' must be finite"):
        traces.keep(workspace, update, tmp_path / "candidate", done)
