"""The energy that GPU boards have drawn, by their own counters (NVML).

What is counted is the whole board, whoever uses it: not the CPU, the memory, the fans of the
machine or its cooling. Nothing is estimated where there is no counter. Called by
`updater.steps.machine`.
"""

import os
from collections.abc import Callable
from typing import Any

Meter = Callable[[], float]


def meter(num_devices: int, environ: dict[str, str] | None = None) -> Meter | None:
    """How many joules this process's first `num_devices` GPUs have drawn up to now, since some
    moment in the past; None where that can't be known: no GPU, no NVML, a part of a GPU (MIG), a
    GPU without a counter, or GPUs of several models that CUDA may number in an order of its own."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        boards = _boards(pynvml, num_devices, dict(os.environ if environ is None else environ))

        def joules() -> float:
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(b) for b in boards) / 1000

        joules()
    except (pynvml.NVMLError, LookupError):
        return None
    return joules


def _boards(pynvml: Any, num_devices: int, environ: dict[str, str]) -> list[Any]:
    """NVML's handles of the GPUs that CUDA shows this process.

    Raises:
        LookupError: which they are can't be known.
        pynvml.NVMLError: NVML doesn't know one of them.
    """
    every = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(int(pynvml.nvmlDeviceGetCount()))]
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(len(every))] if shown is None else shown.split(",")
    wanted = [name.strip() for name in names if name.strip()][:num_devices]
    if len(wanted) < num_devices or any(name.startswith("MIG-") for name in wanted):
        raise LookupError(shown)
    alike = len({pynvml.nvmlDeviceGetName(board) for board in every}) == 1
    in_order = alike or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    found = []
    for name in wanted:
        if name.startswith("GPU-"):
            found.append(pynvml.nvmlDeviceGetHandleByUUID(name))
        elif name.isdecimal() and int(name) < len(every) and in_order:
            found.append(every[int(name)])
        else:
            raise LookupError(name)
    for board in found:
        if _is_cut(pynvml, board):
            raise LookupError("MIG")
    return found


def _is_cut(pynvml: Any, board: Any) -> bool:
    """Whether the GPU is divided among several users, so that its counter is not ours."""
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(board)
    except pynvml.NVMLError:  # a GPU that can't be divided
        return False
    return bool(current)
