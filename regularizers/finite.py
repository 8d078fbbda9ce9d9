"""What an importance must be, and the one failure of it that is the model's and not its caller's.

Called where importances are made (`importance`) and taken (`anchor`).
"""

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """A loss, gradient or weight that is infinite or no number: what was trained has diverged, or
    float32 is too small for what is asked of it."""


def check_weight(name: str, part: Tensor) -> None:
    """The importance of this parameter, or a part of it, is finite and at least 0.

    Raises:
        NotFiniteError: an entry is not finite.
        ValueError: an entry is negative.
    """
    if bool(((part >= 0) & part.isfinite()).all()):
        return
    kind = ValueError if bool(torch.isfinite(part).all()) else NotFiniteError
    raise kind(f"importance of {name!r} must be finite and at least 0")
