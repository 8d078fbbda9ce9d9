"""What is held between updates, and how what an update taught becomes part of it.

A term is the weights after one update with how much each mattered then. Terms are folded into one,
so that memory does not grow with the number of updates. Does not estimate (`fisher`, `path`) and
does not pull (`anchor`). Called through `methods.METHODS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Held:
    """Weights to hold on to, and how much each matters: what `anchor.QuadraticAnchor` takes.

    `anchor` has every name of `importance`, of the same shape, float32 or as the model's. A name
    that is not in `importance` is not held.
    """

    anchor: Mapping[str, Tensor]
    importance: Mapping[str, Tensor]


def newest(before: Held | None, term: Held, *, decay: float) -> Held:
    """The newest term alone: it was estimated on all that is to be held."""
    return term
