"""What is held between updates, and how what an update taught becomes part of it.

A term is the weights after one update with how much each mattered then. Terms are folded into one,
so that memory does not grow with the number of updates. Does not estimate (`fisher`, `mas`,
`path`) and does not pull (`anchor`). Called through `methods.METHODS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from regularizers.formats import Weight, keep_like, whole


@dataclass(frozen=True)
class Held:
    """Weights to hold on to, and how much each matters: what `anchor.QuadraticAnchor` takes.

    `anchor` has every name of `importance`, of the same shape, float32 or as the model's. A name
    that is not in `importance` is not held. Importance is in any format of `formats`, and what is
    made of it is in the newest term's: one parameter at a time is whole in memory.
    """

    anchor: Mapping[str, Tensor]
    importance: Mapping[str, Weight]


def newest(before: Held | None, term: Held, *, decay: float) -> Held:
    """The newest term alone: it was estimated on all that is to be held."""
    return term


def summed(before: Held | None, term: Held, *, decay: float) -> Held:
    """One term with the pull of all: EWC with a term for each update (Kirkpatrick et al. 2017,
    arXiv 1612.00796, section 2.1; Huszar 2018, arXiv 1712.03847, eq. 4 of the note).

    sum_k F_k (theta - theta_k)^2 = F (theta - m)^2 + a constant, with F = sum_k F_k and
    m = sum_k F_k theta_k / F. Exact but for rounding, so the memory of one term is enough for any
    number. Where F is 0 nothing pulls, and m is the newest weight. Under the factored format it is
    an approximation: the sum of two factored importances is factored again, while m is as it was.
    """
    if before is None:
        return term
    anchor, importance = dict(term.anchor), dict(term.importance)
    for name, old in before.importance.items():
        if name not in term.importance:  # frozen in this update
            anchor[name], importance[name] = before.anchor[name], old
            continue
        past, new = _both(old, term.importance[name])
        total = past + new
        share = torch.where(total > 0, new / total, torch.ones_like(total))
        first = before.anchor[name].float()
        # lerp gives the second bit for bit at 1, and no overflow in between.
        anchor[name] = torch.lerp(first, term.anchor[name].to(first), share.to(first.device))
        importance[name] = keep_like(total, term.importance[name])
    return Held(anchor, importance)


def accumulated(before: Held | None, term: Held, *, decay: float) -> Held:
    """All importance at the newest weights, the older times `decay` (gamma, 0..1).

    F~ = gamma F~ + F, centred at the newest weights: online EWC (Schwarz et al. 2018, arXiv
    1805.06370, section 3, whose penalty has another gamma in front of F~; here it is taken in when
    the next term comes, so that gamma = 0 is the newest term alone). With gamma = 1 the
    accumulation of SI (Zenke et al. 2017, arXiv 1703.04200, eq. 5) and of MAS (Aljundi et al. 2018,
    arXiv 1711.09601, section 4).
    """
    if before is None:
        return term
    importance = dict(term.importance)
    for name, old in before.importance.items():
        found = importance.get(name)
        if found is None:
            importance[name] = keep_like(decay * whole(old), old)
        else:
            past, new = _both(old, found)
            importance[name] = keep_like(decay * past + new, found)
    return Held(term.anchor, importance)


def added(before: Held | None, term: Held, *, decay: float) -> Held:
    """`accumulated` without decay: what SI and MAS do, whatever is configured for online EWC."""
    return accumulated(before, term, decay=1.0)


def _both(old: Weight, new: Weight) -> tuple[Tensor, Tensor]:
    """Both importances of one parameter, whole and on the older's device."""
    past = whole(old)
    return past, whole(new).to(past.device)
