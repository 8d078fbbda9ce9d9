"""Which of Mamba-2's fused GPU kernels are taken, and one warning where they could be and are not.

transformers chooses them by itself, each function alone, where their package can be imported; it
warns of each that it has not, on CPUs too. Called by `updater.nemotron.checkpoint`,
`updater.nemotron.packing` and `updater.doctor`.
"""

import importlib
import logging
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import torch
from transformers.integrations import hub_kernels
from transformers.utils.import_utils import resolve_internal_import

log = logging.getLogger("updater")

CONVOLUTION = "causal_conv1d_fn"
SCANS = ("mamba_split_conv1d_scan_combined", "mamba_chunk_scan_combined")
FUNCTIONS: Mapping[str, str] = MappingProxyType(
    {
        CONVOLUTION: "causal_conv1d",
        "causal_conv1d_update": "causal_conv1d",
        **dict.fromkeys((*SCANS, "selective_state_update"), "mamba_ssm"),
    }
)
"""What transformers looks for -> the package in which it does."""


@cache
def taken() -> frozenset[str]:
    """Those of `FUNCTIONS` that transformers takes: on a GPU what it finds by its own search. A
    package may load, and one of its modules not."""
    if not torch.cuda.is_available():
        return frozenset()
    return frozenset(name for name, package in FUNCTIONS.items() if _found(name, package))


def are_fused() -> bool:
    """There is a GPU, and Mamba-2 runs on it by nothing but the kernels."""
    return taken() == FUNCTIONS.keys()


def _found(name: str, package: str) -> bool:
    """As transformers 5.23 looks when its model is imported
    (`hub_kernels.use_kernel_func_from_hub_with_fallback`)."""
    inside = hub_kernels._KERNELS_INTERNAL_PATH_MAPPINGS.get(name, "")
    try:
        root = importlib.import_module(package)
        if resolve_internal_import(root, f"{inside}.{name}" if inside else name) is not None:
            return True
        module = importlib.import_module(f"{package}.{inside}") if inside else root
        return getattr(module, name, None) is not None
    except Exception as error:  # of a build for another torch or GPU too, whatever that raises
        log.debug("%s of %s can't be had: %s", name, package, error)
        return False


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
