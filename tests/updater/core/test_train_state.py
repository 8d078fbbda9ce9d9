"""The state of a training run on a disk that is full."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from updater.train import state


def test_a_full_disk_is_told_and_the_state_before_stays(tmp_path: Path, full_disk: Any) -> None:
    weights = {"w": nn.Parameter(torch.zeros(4096))}
    live = state.Live(weights, {}, torch.optim.AdamW(weights.values()))
    state.save(tmp_path, "run", live, state.Counters(num_steps=1), [2.5])
    with full_disk(4096), pytest.raises(OSError, match=r"safetensors.* could not be written"):
        state.save(tmp_path, "run", live, state.Counters(num_steps=2), [2.5, 2.0])
    counters, losses = state.restore(tmp_path, "run", live)
    assert (counters.num_steps, losses) == (1, [2.5])
