"""Turns a gradient that would undo the past: A-GEM's projection.

Where the gradient g of what is new and the reference gradient r of what is rehearsed disagree
(g.r < 0), g loses its part along r, and to first order a step along what is left does not raise
the loss of the rehearsed. Pure maths on gradients by name: knows no model and takes no step. The
trainer's objective calls it (`updater.train.projected`).
"""

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

VANISHED = 1e-30
"""A reference whose r.r is no more than this (|r| at most 1e-15) has no direction left: its
products are near what float32 can hold. Chosen, not derived."""


def correction(gradients: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """How much of `reference` must be added to `gradients` for their dot product not to be
    negative: -(g.r) / (r.r) where g.r < 0, else 0. Also 0 where the reference has vanished.

    Chaudhry et al. 2018 (A-GEM, arXiv 1812.00420, eq. 11). The products are over all parameters
    together, summed in float64; a name that one of the two lacks is zero there.
    """
    common = [(gradients[name], r) for name, r in reference.items() if name in gradients]
    product = _sum([(g * r).sum(dtype=torch.float64) for g, r in common])
    if not product < 0:  # nor where it is no number: then the loss is none, and the run stops
        return 0.0
    square = _sum([(r * r).sum(dtype=torch.float64) for r in reference.values()])
    return -product / square if square > VANISHED else 0.0


@torch.no_grad()
def project(gradients: MutableMapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """`gradients` agree with `reference`: g - (g.r / r.r) r in place where they did not, and
    untouched where they did (Chaudhry et al. 2018, arXiv 1812.00420, eq. 11).

    Any positive multiple of `reference` gives the same. A name that only `reference` has is new in
    `gradients` if something is added there.
    """
    share = correction(gradients, reference)
    if share == 0:
        return
    for name, r in reference.items():
        if name in gradients:
            gradients[name].add_(r, alpha=share)
        else:
            gradients[name] = share * r


def _sum(products: list[Tensor]) -> float:
    """One reading from the device for all."""
    return float(torch.stack(products).sum()) if products else 0.0
