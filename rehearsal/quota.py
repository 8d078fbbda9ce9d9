"""How many examples each period gives: exact integers that add up.

Pure arithmetic on names and numbers. Knows neither files nor policies; `manifest` calls it.
"""

import math
from collections.abc import Mapping
from fractions import Fraction


def split(
    total: int, weights: Mapping[str, float], capacities: Mapping[str, int]
) -> dict[str, int]:
    """`total` is divided in proportion to `weights`, and no name gets more than its capacity.

    What a full name can't take is shared among the others by their weights. The rest after
    rounding down goes to the largest remainders (Hamilton's method); of equal remainders the one
    that stands first in `weights` is served first. Exact: computed in fractions.

    Args:
        total: examples to give, at least 0.
        weights: finite and at least 0; a name of weight 0 gets nothing.
        capacities: the most that each name can give, under the same names.

    Returns:
        name -> count, for every name; the counts add up to the smaller of `total` and the
        capacities of all names whose weight is above 0.

    Raises:
        ValueError: a negative or non-finite number, or the names differ.
    """
    _check(total, weights, capacities)
    counts = dict.fromkeys(weights, 0)
    exact = {name: Fraction(weight) for name, weight in weights.items() if weight > 0}
    left = total
    while exact:
        whole = sum(exact.values())
        full = [name for name, w in exact.items() if left * w >= capacities[name] * whole]
        if not full:
            break
        for name in full:
            counts[name] = capacities[name]
            left -= capacities[name]
            del exact[name]
    if exact:
        counts |= _largest_remainder(left, exact)
    return counts


def _largest_remainder(total: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    whole = sum(weights.values())
    shares = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: math.floor(share) for name, share in shares.items()}
    left = total - sum(counts.values())
    # Sorting is stable: equal remainders stay in the order of `weights`.
    for name in sorted(shares, key=lambda name: counts[name] - shares[name])[:left]:
        counts[name] += 1
    return counts


def _check(total: int, weights: Mapping[str, float], capacities: Mapping[str, int]) -> None:
    if total < 0:
        raise ValueError(f"total is {total}: must be at least 0")
    if weights.keys() != capacities.keys():
        odd = sorted(weights.keys() ^ capacities.keys())
        raise ValueError(f"weights and capacities must have the same names; not in both: {odd}")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of {name!r} is {weight}: must be finite and at least 0")
        if capacities[name] < 0:
            raise ValueError(f"the capacity of {name!r} is {capacities[name]}: at least 0")
