"""The GPU boards' own counters: none without a GPU, and on one they rise by what it draws."""

import os
import time

import pytest

from updater.energy import meter

needs_gpu = pytest.mark.skipif("UPDATER_TEST_GPU" not in os.environ, reason="no GPU asked for")


@pytest.mark.skipif("UPDATER_TEST_GPU" in os.environ, reason="there is a GPU")
def test_without_a_gpu_there_is_no_meter() -> None:
    assert meter(1) is None


@needs_gpu
def test_a_busy_gpu_draws_what_a_gpu_draws() -> None:
    import torch

    read = meter(1)
    assert read is not None
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    before, started = read(), time.monotonic()
    while time.monotonic() - started < 3:
        matrix @ matrix
        torch.cuda.synchronize()
    watts = (read() - before) / (time.monotonic() - started)
    assert 50 < watts < 1500


@needs_gpu
@pytest.mark.parametrize("shown", ["", "99", "GPU-no-such-one", "MIG-abc"])
def test_a_gpu_that_is_not_there_is_not_guessed(shown: str) -> None:
    assert meter(1, {"CUDA_VISIBLE_DEVICES": shown}) is None


@needs_gpu
def test_more_gpus_than_there_are_have_no_meter() -> None:
    assert meter(1000) is None
