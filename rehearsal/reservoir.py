"""Policy `reservoir`: a buffer of fixed size, a uniform sample of all the past, kept over updates.

The literature's buffer is made by Algorithm R (Vitter 1985, "Random sampling with a reservoir",
ACM TOMS 11(1)): after n examples each is in it with probability budget / n. The `budget` smallest
of n random keys are such a sample too (bottom-k sampling: Cohen & Kaplan 2007, "Summarizing data
using bottom-k sketches", PODC), and need neither the stream's order nor its random numbers: the
key is the hash by which `train.parquet` is sorted. So the buffer is a function of the past alone,
and the buffer of two pasts is made from theirs. While the budget stays, an example leaves when
newer ones push it out, as in Algorithm R, and for good, unless others are erased.

Unlike under `uniform` the same examples stay from update to update. Each file gives its first rows,
so what is chosen is a window again. Examples of two periods with one id have one key, so they are
in together.
"""

from collections.abc import Sequence

import numpy as np

from rehearsal import window
from rehearsal.choice import Choice
from rehearsal.manifest import Manifest
from rehearsal.policies import Past
from rehearsal.request import Request
from rehearsal.window import Locate


def choose(past: Sequence[Past], request: Request, locate: Locate) -> Manifest:
    """The `budget` examples of least key in all of the past; the cursors stay.

    Reads at most `budget` keys of each period, 8 bytes each. Of equal keys the older period's is
    first.

    Raises:
        ValueError, OSError: as `window.columns`.
    """
    ordered = sorted(past, key=lambda one: (one.ordinal, one.period))
    keys = [_first_keys(one, request.budget, locate) for one in ordered]
    owners = np.repeat(np.arange(len(ordered)), [len(some) for some in keys])
    merged = np.concatenate(keys) if keys else np.empty(0, np.uint64)
    least = np.argsort(merged, kind="stable")[: request.budget]
    counts = np.bincount(owners[least], minlength=len(ordered))
    choices = tuple(
        Choice(one.period, one.dataset_version, one.num_train, 0, int(count))
        for one, count in zip(ordered, counts, strict=True)
        if count
    )
    return Manifest(request.policy, request.budget, choices, dict(request.cursors))


def _first_keys(one: Past, budget: int, locate: Locate) -> np.ndarray:
    count = min(budget, one.num_train)
    if not count:
        return np.empty(0, np.uint64)
    return window.columns(one, locate, ["key"], count)["key"].to_numpy()
