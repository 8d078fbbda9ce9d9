"""Importance in units of its own mean, so that one strength means the same for every term.

What a Fisher comes to depends on how well the model fits the examples that it is estimated on: on
CLINC150 the empirical one's trace is 0.004 at a first model that has learnt them well, 333 one
update later and 1,260 after five (rehearsal of 25 %, 256 examples, 0.67 M weights;
bench/importance_scale.py). Called by `updater.train.memory`.
"""

from collections.abc import Mapping

from regularizers.formats import Factored, Weight
from regularizers.shards import local, over_shards

SCALES = ("none", "mean")


def scaled(importance: Mapping[str, Weight], scale: str) -> Mapping[str, Weight]:
    """The importance as `scale` says; in the format that it has. Of DTensors each rank has to ask.

    `none`: as it was estimated. `mean`: divided by its mean over all entries of all parameters, so
    that it has a mean of 1, as plain L2 has, and strength is the mean curvature that it adds. Only
    the proportions are left. An importance of nothing but zeros stays one; one that has a mean of 1
    is returned as it is. Our own definition; Progress & Compress (Schwarz et al. 2018, arXiv
    1805.06370) normalises the Fisher of each task to the same end.

    Raises:
        ValueError: no such scale.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}: must be one of {', '.join(SCALES)}")
    if scale == "none":
        return importance
    total = sum(_total(weight) for weight in importance.values())
    num_entries = sum(weight.shape.numel() for weight in importance.values())
    if total in (0, num_entries):
        return importance
    factor = num_entries / total
    return {name: _times(weight, factor) for name, weight in importance.items()}


def _total(weight: Weight) -> float:
    # Of a factored one the columns are shares of 1.
    entries = weight.rows if isinstance(weight, Factored) else weight
    return float(over_shards(local(entries).double().sum(), entries))


def _times(weight: Weight, factor: float) -> Weight:
    if isinstance(weight, Factored):
        return Factored(weight.rows * factor, weight.columns)
    return (weight.float() * factor).to(weight.dtype)
