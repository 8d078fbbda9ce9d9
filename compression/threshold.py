"""Where a cut goes through the scores of many tensors, without ever having them side by side.

The scores of a model are as large as the model. Each tensor's are made, looked at and let go of:
twice, for the upper and for the lower half of float32's bits, which for numbers of at least 0 have
the order of the numbers. So the cut is exact, in the memory of one tensor. Called by
`compression.masks`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

_HALF = 16
_BINS = 1 << _HALF


class Cut(NamedTuple):
    """What lies under `value` goes, and of what equals it the first `ties`, in the order of the
    tensors and of their entries: always exactly as many as were asked for."""

    value: float
    ties: int


def cut(scores: Callable[[], Iterable[Tensor]], share: float) -> Cut:
    """The cut under which that share of all scores lies, rounded to a whole number of them.

    Args:
        scores: gives the tensors, float32 and at least 0, in the same order at each call; called
            twice.
        share: in [0, 1].
    """
    upper = _counted(_bits(one) >> _HALF for one in scores())
    count = round(share * int(upper.sum()))
    if count == 0:
        return Cut(0.0, 0)
    high, before = _place(upper, count)
    lower = _counted((bits & (_BINS - 1))[(bits >> _HALF) == high] for bits in map(_bits, scores()))
    low, less = _place(lower, count - before)
    value = torch.tensor((high << _HALF) | low, dtype=torch.int32).view(torch.float32)
    return Cut(float(value), count - before - less)


def _bits(scores: Tensor) -> Tensor:
    """As whole numbers of the same order. 0 has two forms: the one without a sign is taken."""
    return (scores.detach().float() + 0.0).flatten().view(torch.int32)


def _counted(parts: Iterable[Tensor]) -> Tensor:
    total = torch.zeros(_BINS, dtype=torch.int64)
    for part in parts:
        total += torch.bincount(part, minlength=_BINS).cpu()
    return total


def _place(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The bin in which the entry of that number lies, counted from 1, and how many lie before."""
    summed = counts.cumsum(0)
    place = int(torch.searchsorted(summed, wanted))
    return place, int(summed[place] - counts[place])
