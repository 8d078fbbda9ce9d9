"""Whether Mamba-2 runs by its fused GPU kernels, and one warning where it could and does not.

transformers chooses them by itself where both packages can be imported; it warns of each, on CPUs
too. Called by `updater.nemotron.checkpoint` and `updater.doctor`.
"""

import importlib
import logging
from functools import cache

import torch

from updater.kernels_guard import KERNELS

log = logging.getLogger("updater")


@cache
def are_fused() -> bool:
    """There is a GPU, and both packages load on it."""
    if not torch.cuda.is_available():
        return False
    try:
        for name in KERNELS:
            importlib.import_module(name)
    except Exception as error:  # of a build for another torch or GPU too, whatever that raises
        log.debug("%s can't be imported: %s", name, error)
        return False
    return True


@cache
def announce() -> None:
    """Said once: on a GPU without the kernels, what that costs. transformers' own words, one for
    each function and on CPUs, are not."""
    logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
    if torch.cuda.is_available() and not are_fused():
        log.warning(
            "Mamba-2 layers run on PyTorch's operators: mamba-ssm and causal-conv1d can't be"
            " imported. The same results, slower (5 layers of Nano's shape took 1.16 times as long"
            " on an H200) and with more memory for activations. docs/gpu.md tells how to build them"
        )
