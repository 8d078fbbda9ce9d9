"""The state of a training run: on a disk that is full, and of before."""

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


def test_moments_are_restored_in_their_weights_dtype(tmp_path: Path) -> None:
    """A run of before LoRA's factors were float32 over bfloat16 weights goes on."""
    for dtype in (torch.bfloat16, torch.float32):
        weights = {"w": nn.Parameter(torch.ones(4, dtype=dtype))}
        live = state.Live(weights, {}, torch.optim.AdamW(weights.values()))
        if dtype == torch.float32:
            state.restore(tmp_path, "run", live)
            assert live.optimizer.state[weights["w"]]["exp_avg"].dtype == dtype
        weights["w"].grad = torch.ones(4, dtype=dtype)
        live.optimizer.step()
        state.save(tmp_path, "run", live, state.Counters(num_steps=1), [2.5])
