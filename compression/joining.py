"""Two experts become one: neuron joins neuron, in the shares in which tokens came to them.

The weighted average by routing frequency after the neurons are brought into one order is M-SMoE's
(Li et al. 2023, arXiv 2310.01334), here with another order and for relu^2; so put together, our own
definition. Which experts, and what the router says of them, the caller knows.

Shape suffixes: n neurons.
"""

import torch
from torch import Tensor

from compression.mlp import Mlp


def joined(first: Mlp, second: Mlp, share: float) -> Mlp:
    """One MLP for both, in the order and dtypes of the first.

    Each neuron is brought to incoming weights of norm 1, its scale going to the outgoing ones,
    which changes nothing that it says (`compression.mlp`); the second's are ordered by `matched` of
    the cosines; and both are averaged. In the end each neuron's scale is shared between its weights
    as in the average of the two.

    Args:
        share: of the first, in [0, 1]: the first's tokens over both's.

    Raises:
        ValueError: shapes that don't fit or are not the same, or a share out of range.
    """
    first.check()
    second.check()
    shapes = [tuple(None if t is None else t.shape for t in one) for one in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"experts of shapes {shapes[0]} and {shapes[1]}: must be the same")
    if not 0 <= share <= 1:
        raise ValueError(f"the share of the first is {share}: must be 0 to 1")
    (norms, incoming, down), (other_norms, other_incoming, other_down) = map(
        _of_norm_1, (first, second)
    )
    order = matched(incoming @ other_incoming.T)
    incoming = torch.lerp(other_incoming[order], incoming, share)
    down = torch.lerp(other_down[:, order], down, share)
    norms = torch.lerp(other_norms[order], norms, share)
    return first.with_values(incoming * norms[:, None], down / norms.square())


def matched(likeness: Tensor) -> Tensor:
    """int64 (n,): for each row a column of its own. The pair that is most alike of all is taken,
    then the most alike of the others, and so on.

    Greedy: the sum over pairs may be less than the best that there is (Hungarian method), but is
    never less than half of it where no likeness is negative.
    """
    left = likeness.clone()
    rows = torch.arange(len(left), device=left.device)
    found = torch.full_like(rows, -1)
    while bool((found < 0).any()):
        # Rows and columns that are each other's best are all pairs that the greedy would take.
        best = left.argmax(1)
        agreed = (left.argmax(0)[best] == rows) & (found < 0)
        found[agreed] = best[agreed]
        left[agreed] = -torch.inf
        left[:, best[agreed]] = -torch.inf
    return found


def _of_norm_1(mlp: Mlp) -> tuple[Tensor, Tensor, Tensor]:
    """The norms of the neurons' incoming weights, 1 where they are none; the weights so divided;
    and the outgoing ones times the square. float32."""
    incoming = mlp.incoming()
    norms = incoming.norm(dim=1)
    norms = norms.where(norms > 0, 1.0)
    return norms, incoming / norms[:, None], mlp.down.detach().float() * norms.square()
