"""Lets `import torchvision` succeed where its C++ part was built for another torch.

Where it comes from: Avalanche (the extra `study`) requires torchvision, and transformers' model
classes import torchvision wherever it is installed. A wheel built for CUDA beside a torch for the
CPU, which two package indexes easily bring about, cannot load its C++ part; torchvision 0.28 takes
that well but for two operators whose schemas it then misses ("operator torchvision::nms does not
exist"), and with it every import of our models would fail. Declaring the two is enough: nobody
here detects objects in images. Where the C++ part loads, nothing is declared.

`updater/__init__.py` installs the guard, the one place that every import of ours passes through.
"""

import sys
from collections.abc import Sequence

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_FIRST_USE = "torchvision._meta_registrations"  # imported when torchvision has tried its C++ part


class _Guard:
    """An entry of `sys.meta_path` that finds no module, but sees when one is looked for."""

    _library: object = None  # the declarations last as long as what declared them

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> None:
        """Declares what is missing when torchvision is about to ask for it."""
        if name != _FIRST_USE or sys.modules["torchvision.extension"]._has_ops():
            return
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(operator + _SCHEMA)
        self._library = library


def install() -> None:
    """From now on torchvision can be imported. Imports nothing itself; twice is once."""
    if not any(isinstance(finder, _Guard) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Guard())
