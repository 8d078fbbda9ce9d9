"""Lets models run on a CPU where the fused Mamba-2 kernels are installed.

transformers takes mamba-ssm and causal-conv1d wherever they can be imported, without a look for a
GPU, and then every forward pass on a CPU fails. A GPU image has both, and is also where people run
a status, a test or a rescue without a GPU. So where torch sees none, their import fails as if they
were not installed, and transformers takes its own PyTorch operators.

`updater/__init__.py` installs the guard, the one place that every import of ours passes through.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

KERNELS = ("mamba_ssm", "causal_conv1d")


class _Refusal(Loader):
    """A loader of a module that must not be loaded here."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise ModuleNotFoundError(f"{module.__name__} needs a GPU, and torch sees none")


class _OnGpusAlone:
    """An entry of `sys.meta_path` that looks for a GPU when a kernel is about to be imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """A refusal where there is no GPU; else nothing, and the import goes its way."""
        if name not in KERNELS:
            return None
        import torch

        return None if torch.cuda.is_available() else ModuleSpec(name, _Refusal())


def install() -> None:
    """From now on the kernels are imported on GPUs alone. Imports nothing itself; twice is once."""
    if not any(isinstance(finder, _OnGpusAlone) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnGpusAlone())
