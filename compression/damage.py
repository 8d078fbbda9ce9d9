"""How much worse a network gets without a part, told by losses under random masks.

The dropout-based damage estimation of Harang & Sanders 2023 (arXiv 2306.10177) is known to us by
its name; this is our own definition. The damage of part j is

    damage_j = E[L | j dropped] - E[L | j kept],

the mean loss over masks in which each other part is kept with the same chance: unlike the loss
without j alone it counts what other parts would have done in its place. No gradient, no curvature:
it sees the large change that a removal is. Knows no model: who calls it evaluates the losses
(`updater.compress.damage`).

Shape suffixes: r rounds, p parts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LEAST = 2
"""Rounds that keep, and rounds that drop, each part: fewer have no deviation."""


class Damage(NamedTuple):
    """float32 (parts,), in the unit of the losses: `rise` of the loss without the part, which may
    be negative, and its standard `error` (one deviation)."""

    rise: Tensor
    error: Tensor

    def scores(self) -> Tensor:
        """The rises as scores, which are at least 0: where one is negative all are raised by the
        lowest. That keeps their order, which a cut at 0 would lose among the parts that one is
        better off without. To be compared with those of the same estimate only."""
        return self.rise - self.rise.min().clamp(max=0)


def masks(num_parts: int, num_rounds: int, kept: float, generator: torch.Generator) -> Tensor:
    """bool (r, p), true where the part is kept in that round.

    Each part is kept in the same number of rounds, the share `kept` of them rounded; in which,
    chance decides, and for each part anew. So a part's chance of being kept in a round is that
    share whatever the others do, and the estimate has none of the noise of an uneven count.

    Raises:
        ValueError: a share that is not between 0 and 1, or so few rounds that a part is kept, or
            dropped, in fewer than `LEAST` of them.
    """
    if not 0 < kept < 1:
        raise ValueError(f"a part is kept with chance {kept}: must be more than 0 and less than 1")
    num_kept = round(kept * num_rounds)
    if not LEAST <= num_kept <= num_rounds - LEAST:
        found = f"of {num_rounds} rounds {num_kept} keep a part"
        raise ValueError(f"{found}: at least {LEAST} must, and at least {LEAST} must not")
    device = generator.device
    order_rp = torch.rand(num_rounds, num_parts, generator=generator, device=device).argsort(0)
    return order_rp < num_kept


def estimate(kept_rp: Tensor, losses_r: Tensor) -> Damage:
    """The damage of each part.

    With at least twice as many rounds as parts, whose masks tell all parts apart, it is the
    coefficient of "dropped" in the least-squares fit of the loss by all parts at once: what the
    other parts did in a round is then no noise, and of a loss that is a sum over parts it is exact.
    Its error is the usual one, of residuals that are alike in all rounds. With fewer rounds it is
    the fit by one part at a time, which is the difference of the mean losses with and without it,
    with Welch's error. Of masks that are drawn for each part apart both estimate the same. No ridge
    in between: it shrinks all, and its error is not known.

    Args:
        kept_rp: bool, as `masks` draws them.
        losses_r: the loss of each round.

    Raises:
        ValueError: shapes that don't fit, a loss that is not finite, or a part that is kept, or
            dropped, in fewer than `LEAST` rounds.
    """
    _check(kept_rp, losses_r)
    dropped_rp = (~kept_rp).double()
    loss_r = losses_r.to(dropped_rp)
    loss_r = loss_r - loss_r.mean()  # the masks' effect is small beside the loss
    num_rounds, num_parts = kept_rp.shape
    found = None
    if num_rounds >= 2 * num_parts:
        found = _together(dropped_rp - dropped_rp.mean(0), loss_r)
    rise, error = found if found is not None else _one_by_one(dropped_rp, loss_r)
    return Damage(rise.float(), error.float())


def _together(centred_rp: Tensor, loss_r: Tensor) -> tuple[Tensor, Tensor] | None:
    """None: the masks don't tell all parts apart."""
    num_rounds, num_parts = centred_rp.shape
    freedom = num_rounds - num_parts - 1
    covariance = centred_rp.T @ centred_rp
    if freedom < 1 or int(torch.linalg.matrix_rank(covariance, hermitian=True)) < num_parts:
        return None
    inverse = torch.linalg.inv(covariance)
    rise = inverse @ (centred_rp.T @ loss_r)
    residual = (loss_r - centred_rp @ rise).square().sum() / freedom
    return rise, (residual * inverse.diagonal()).sqrt()


def _one_by_one(dropped_rp: Tensor, loss_r: Tensor) -> tuple[Tensor, Tensor]:
    num_rounds = len(loss_r)
    without = dropped_rp.sum(0)
    total, squares = loss_r.sum(), loss_r.square().sum()
    sum_without, squares_without = dropped_rp.T @ loss_r, dropped_rp.T @ loss_r.square()
    means, variances = [], []
    for count, summed, squared in (
        (without, sum_without, squares_without),
        (num_rounds - without, total - sum_without, squares - squares_without),
    ):
        means.append(summed / count)
        variance = (squared - summed.square() / count).clamp(min=0) / (count - 1)
        variances.append(variance / count)
    return means[0] - means[1], (variances[0] + variances[1]).sqrt()


def _check(kept_rp: Tensor, losses_r: Tensor) -> None:
    fits = kept_rp.ndim == 2 and losses_r.shape == kept_rp.shape[:1]
    if kept_rp.dtype != torch.bool or not fits:
        kind = f"{kept_rp.dtype} {tuple(kept_rp.shape)} with losses {tuple(losses_r.shape)}"
        raise ValueError(f"masks are {kind}: must be bool (rounds, parts) with (rounds,)")
    if not bool(losses_r.isfinite().all()):
        raise ValueError(
            f"the loss of round {int((~losses_r.isfinite()).nonzero()[0])} is no number"
        )
    kept_p = kept_rp.sum(0)
    few = (kept_p < LEAST) | (kept_p > len(kept_rp) - LEAST)
    if bool(few.any()):
        part = int(few.nonzero()[0])
        found = f"part {part} is kept in {int(kept_p[part])} of {len(kept_rp)} rounds"
        raise ValueError(f"{found}: at least {LEAST} must keep it, and {LEAST} must not")
