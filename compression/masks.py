"""Which weights stay: a share of all goes, those with the lowest scores.

Not the scores (`compression.saliency`). A mask is bool, of the weight's shape, true where it stays.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from compression.threshold import Cut, cut

Scores = Callable[[], Iterable[tuple[str, Tensor]]]
"""Gives (name, scores) of each tensor, one after the other and at each call the same: a model's
scores need not be there all at once."""


def by_model(scores: Scores, sparsity: float) -> Iterator[tuple[str, Tensor]]:
    """One cut through all tensors: a layer that matters less loses more."""
    found = cut(lambda: (one for _, one in scores()), sparsity)
    for name, one in scores():
        mask, found = _above(one, found)
        yield name, mask


def by_tensor(scores: Scores, sparsity: float) -> Iterator[tuple[str, Tensor]]:
    """Each tensor loses the same share."""
    for name, one in scores():
        yield name, _above(one, cut(partial(_alone, one), sparsity))[0]


def by_row(scores: Scores, sparsity: float) -> Iterator[tuple[str, Tensor]]:
    """Each row of a matrix, what makes one output, loses the same share; a vector is one row."""
    for name, one in scores():
        order = one.argsort(dim=-1, stable=True)
        going = order[..., : round(sparsity * one.shape[-1])]
        yield name, torch.ones_like(one, dtype=torch.bool).scatter_(-1, going, False)


SCOPES: Mapping[str, Callable[[Scores, float], Iterator[tuple[str, Tensor]]]] = MappingProxyType(
    {"model": by_model, "tensor": by_tensor, "row": by_row}
)


def lowest(scores: Scores, sparsity: float, scope: str) -> Iterator[tuple[str, Tensor]]:
    """(name, mask) of each tensor, with the share `sparsity` of all weights gone, rounded to whole
    weights: the lowest within each of what `scope` names. Of equal scores the first goes.

    Args:
        sparsity: in [0, 1).
        scope: a key of `SCOPES`.

    Raises:
        ValueError: a sparsity out of range, or no such scope.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}: must be at least 0 and less than 1")
    if scope not in SCOPES:
        raise ValueError(f"scope is {scope!r}: must be one of {', '.join(SCOPES)}")
    return SCOPES[scope](scores, sparsity)


def n_of_m(scores: Tensor, num_kept: int = 2, group: int = 4) -> Tensor:
    """Of each `group` weights in a row, one beside the other, the `num_kept` highest stay: 2 of 4
    is what NVIDIA's sparse tensor cores take (Mishra et al. 2021, arXiv 2104.08378).

    Raises:
        ValueError: rows that are no whole number of groups, or a number that is not in 1 .. group.
    """
    if not 1 <= num_kept <= group:
        raise ValueError(f"{num_kept} of {group} are to stay: must be 1 to {group}")
    if scores.shape[-1] % group:
        raise ValueError(f"rows of {scores.shape[-1]} weights: must be a multiple of {group}")
    grouped = scores.unflatten(-1, (-1, group))
    going = grouped.argsort(dim=-1, stable=True)[..., : group - num_kept]
    return torch.ones_like(grouped, dtype=torch.bool).scatter_(-1, going, False).flatten(-2)


def _above(scores: Tensor, found: Cut) -> tuple[Tensor, Cut]:
    """The tensor's mask, and the cut with the ties that are left for those after it."""
    ties = (scores == found.value).flatten()
    going = ties & (ties.cumsum(0) <= found.ties)
    mask = (scores > found.value) | (ties & ~going).view_as(scores)
    return mask, Cut(found.value, found.ties - int(going.sum()))


def _alone(scores: Tensor) -> list[Tensor]:
    return [scores]
