"""Which of a checkpoint's single weights go: scores and masks, one tensor in memory at a time.

Not the criteria (`compression.saliency`), not the cut (`compression.masks`), not the writing
(`updater.nemotron.smaller`).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from compression.masks import lowest, n_of_m
from compression.saliency import CRITERIA, score
from updater.compress.looking import Looking
from updater.compress.matrices import prunable

_LEAST = torch.finfo(torch.float32).tiny
"""The lowest score of a weight that is there: below it are those that are gone."""


def masks(looking: Looking, sparsity: float) -> Iterator[tuple[str, Tensor]]:
    """(released name, mask) of each matrix that may lose weights; true where a weight stays.

    A weight that is zero already goes first, whatever the criterion says of it, so that what one
    round has taken away no later one gives back.

    Args:
        sparsity: of all those weights, also of those that are gone already.

    Raises:
        ValueError: as `compression.saliency.score`; or a pattern does not fit a matrix.
    """
    settings, attention = looking.settings, looking.settings.attention
    names = prunable(looking.contents.entries, attention=attention)

    def scores() -> Iterator[tuple[str, Tensor]]:
        for name in names:
            weight, evidence = looking.weight(name), looking.known(name)
            assert evidence is not None, "what can lose weights is looked at"
            found = score(settings.method, name, weight, evidence).clamp_(min=_LEAST)
            yield name, found.where(weight != 0, 0)

    if settings.pattern != "none":  # which fits: `updater.compress.fits`
        return ((name, n_of_m(one)) for name, one in scores())
    own = CRITERIA[settings.method].scope
    return lowest(scores, sparsity, own if settings.scope == "default" else settings.scope)
