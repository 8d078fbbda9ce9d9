"""Which tensors are matrices that may lose single weights.

Those of the layers alone: embedding, output head, routers, norms, convolutions and the state's own
parameters stay, as in the published recipes for single weights (Frantar & Alistarh 2023, arXiv
2301.00774, prune the layers' linear maps), and so does attention unless asked.
"""

from collections.abc import Iterable

_MATRICES = tuple(
    f"{name}_proj.weight" for name in ("in", "out", "up", "down", "fc1_latent", "fc2_latent")
)
_ATTENTION = tuple(f".mixer.{name}_proj.weight" for name in "qkvo")


def is_prunable(name: str, *, attention: bool = True) -> bool:
    """Whether the tensor of that released name is a matrix that may lose weights."""
    endings = _MATRICES + (_ATTENTION if attention else ())
    return name.startswith("backbone.layers.") and name.endswith(endings)


def prunable(names: Iterable[str], *, attention: bool) -> list[str]:
    """Those of the released names that are."""
    return [name for name in names if is_prunable(name, attention=attention)]
