"""The clocks of bench/gpu.py: of a step, of a call, of the device's ceilings; and its memory."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gpu_shapes import WARM_UP_STEPS
from lightning.pytorch import Callback

GIB = 2**30


class Clock(Callback):
    """When each step ended, by the device's clock. Lightning calls it after every micro-batch, of
    which `accumulate` make a step, and the Trainer's rows."""

    def __init__(self, device: str, *, accumulate: int = 1, warm_up: int = WARM_UP_STEPS) -> None:
        self._on_gpu = device == "cuda"
        self._accumulate, self._warm_up = accumulate, warm_up
        self._num_batches = 0
        self._marks: list[Any] = []

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        """A micro-batch is done, or will be when the device comes to it."""
        self._num_batches += 1
        if self._num_batches % self._accumulate:
            return
        if not self._on_gpu:
            self._marks.append(time.perf_counter())
            return
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        self._marks.append(mark)

    @property
    def seconds(self) -> float:
        """The mean of a step, without those that warmed up."""
        first, last = self._marks[self._warm_up - 1], self._marks[-1]
        number = len(self._marks) - self._warm_up
        if not self._on_gpu:
            return (last - first) / number
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1e3 / number


def ceilings(device: str) -> tuple[float, float]:
    """FLOP/s of a large bfloat16 (on the CPU float32) matrix product, and bytes/s of a large
    copy, read and written counted."""
    size, count = (8192, 2**29) if device == "cuda" else (512, 2**22)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = 2 * size**3 / clocked(lambda: a @ b, device)
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    return product, 2 * source.nbytes / clocked(lambda: target.copy_(source), device)


def clocked(work: Callable[[], object], device: str, times: int = 10) -> float:
    """Seconds of one call, the mean of several after three."""
    for _ in range(3):
        work()
    if device == "cpu":
        started = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - started) / times
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(times):
        work()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3 / times


@contextmanager
def peak(device: str) -> Iterator[Callable[[], float | None]]:
    """Hands out what tells the most of the GPU's memory that was taken in the block, GiB; None on
    the CPU."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() / GIB
    else:
        yield lambda: None
    gc.collect()
