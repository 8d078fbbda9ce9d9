"""Neurons merged by their weights alone: one that goes leaves its outgoing weights to its like.

Srinivas & Babu 2015, arXiv 1507.06149: removing neuron j, whose like is i, costs
<a_j^2> ||W_i - W_j||^2, with a_j the outgoing weights, of whose squares <> is the mean, and W the
incoming ones with the bias as one more; and a_i becomes a_i + a_j. It was derived for an activation
with a slope of at most 1, which relu^2 is not: here it is a rule of thumb.

What is our own, and the default (`scaled`): neurons are alike if one's incoming weights are a
multiple s >= 0 of the other's, since relu(s z)^2 = s^2 relu(z)^2. The nearest multiple of W_i is
taken, a_i becomes a_i + s^2 a_j, and the cost is <a_j^2> ||W_j||^2 ||W_j - s W_i||^2, which, as
what the network says, does not depend on how a neuron shares its scale between W and a. With s = 0
the neuron is dropped. With activations at hand `compression.rebuilding` knows better.

Shape suffixes: n neurons, i inputs, m other neurons.
"""

import torch
from torch import Tensor

from compression.mlp import Mlp

_ROWS = 512  # of distances made at a time in float64
_TINY = torch.finfo(torch.float32).tiny


def costs(mlp: Mlp, *, scaled: bool = True) -> Tensor:
    """float32 (n,): what it costs when a neuron goes, in the order in which they go best.

    The cheapest goes, its like takes over its outgoing weights, and so on, as in the paper: of two
    that are alike only one is cheap. A cost is at least that of
    those that went before, so that all below a threshold are the first to go. The last one's is
    infinite. In memory n^2 float32.

    Raises:
        ValueError: shapes that don't fit.
    """
    mlp.check()
    incoming, down = mlp.incoming(), mlp.down.detach().float().clone()
    apart = _apart(incoming, incoming, scaled=scaled).fill_diagonal_(float("inf"))
    sizes = incoming.square().sum(1) if scaled else torch.ones_like(incoming[:, 0])
    weights = down.square().mean(0) * sizes
    nearest, like = apart.min(1)
    found = torch.full_like(weights, float("inf"))
    stays = torch.ones_like(weights, dtype=torch.bool)
    highest = weights.new_zeros(())
    for _ in range(len(weights) - 1):
        price = (weights * nearest).masked_fill_(~stays, float("inf"))
        goes = int(price.argmin())
        heir = int(like[goes])
        highest = torch.maximum(highest, price[goes])
        found[goes], stays[goes] = highest, False
        scale = _scales(incoming[goes, None], incoming[heir, None], scaled=scaled)[0]
        down[:, heir] += scale.square() * down[:, goes]
        weights[heir] = down[:, heir].square().mean() * sizes[heir]
        apart[:, goes] = float("inf")
        orphans = (stays & (like == goes)).nonzero()[:, 0]
        nearest[orphans], like[orphans] = apart[orphans].min(1)
    return found


def fold(mlp: Mlp, kept: Tensor, *, scaled: bool = True) -> Mlp:
    """The MLP of the neurons that stay: each that goes has left its outgoing weights to the nearest
    of them. Incoming weights are bit for bit what they were.

    Args:
        kept: bool (n,), at least one true.

    Raises:
        ValueError: shapes that don't fit, or no neuron stays.
    """
    mlp.check(kept)
    incoming, down = mlp.incoming(), mlp.down.detach().float()
    going, staying = incoming[~kept], incoming[kept]
    like = _apart(going, staying, scaled=scaled).argmin(1)
    scale = _scales(going, staying[like], scaled=scaled)
    return mlp.only(kept, down[:, kept].index_add(1, like, down[:, ~kept] * scale.square()))


def _apart(of_ni: Tensor, others_mi: Tensor, *, scaled: bool) -> Tensor:
    """float32 (n, m): the squared distance of each from each other, or from its nearest multiple.
    In float64 in between: of neurons that are alike all but a little cancels."""
    others = others_mi.double()
    sizes_m = others.square().sum(1)
    found = torch.empty(len(of_ni), len(others), device=of_ni.device)
    for some, into in zip(of_ni.split(_ROWS), found.split(_ROWS), strict=True):
        rows = some.double()
        sizes_n = rows.square().sum(1, keepdim=True)
        product = rows @ others.T
        if scaled:
            shared = product.clamp(min=0).square() / sizes_m.clamp(min=_TINY)
            into.copy_((sizes_n - shared).clamp(min=0))
        else:
            into.copy_((sizes_n + sizes_m - 2 * product).clamp(min=0))
    return found


def _scales(of_ni: Tensor, likes_ni: Tensor, *, scaled: bool) -> Tensor:
    """(n,): the multiple of its like that is nearest to each."""
    if not scaled:
        return torch.ones_like(of_ni[:, 0])
    product = (of_ni * likes_ni).sum(1).clamp(min=0)
    return product / likes_ni.square().sum(1).clamp(min=_TINY)
