"""Policies `hard` and `surprise`: what the model gets wrong, or finds unlikely, is preferred.

Outcomes are known of holdout examples only, which are never trained on. So the model answers a pool
of *train* examples: a uniform window of the past of `pool_factor` times the budget, as
`manifest.plan` takes it, so the cost is O(budget) and the pool goes on from update to update. Both
policies draw from the pool, and what a pool leaves may come in a later round.

The losses differ in the last digits from machine to machine: made again elsewhere, a choice may
differ by examples on the border. What was chosen stands in the manifest.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from rehearsal import window
from rehearsal.choice import Picked
from rehearsal.manifest import Manifest, plan
from rehearsal.policies import Past
from rehearsal.request import Request
from rehearsal.window import Locate

Score = Callable[[pa.Table], pa.Table]
"""Examples (columns id, prompt, completion) -> of each, in their order, `correct` (bool) and `loss`
(at least 0; null where the model can't be asked): as `updater.evaluate.outcomes` does."""

Draw = Callable[[pa.Table, int, np.random.Generator], np.ndarray]

HARD_FRACTION = 0.5
"""How much of the budget goes first to what was wrong. Our choice, not measured: it keeps half for
a uniform sample, so that what is known is not forgotten for want of showing it, and wrong labels,
which stay hard for ever, can't take everything."""


def hard(scores: pa.Table, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` places of the pool: wrong ones first, HARD_FRACTION of `count` or all if they are
    fewer, at random; the rest uniformly from what is left of the pool, right or wrong. Our own.

    Args:
        scores: of the pool, columns `correct` and `loss`, no nulls.
        count: 0 .. rows.
    """
    wrong = np.flatnonzero(~scores["correct"].to_numpy())
    first = random.permutation(wrong)[: round(HARD_FRACTION * count)]
    # Shuffled anew: in the first order the wrong ones that are left would come late.
    rest = random.permutation(np.setdiff1d(np.arange(len(scores)), first))
    return np.concatenate([first, rest])[:count]


def surprise(scores: pa.Table, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` places of the pool, each next one drawn with probability proportional to its loss
    among those left; those of loss 0 last.

    The k smallest of E_i / w_i, with E_i exponential and w_i the loss, are such a draw: algorithm
    A of Efraimidis & Spirakis 2006 ("Weighted random sampling with a reservoir", Information
    Processing Letters 97(5)), whose keys u^(1/w) these are, by -log. Never the largest losses
    alone: with wrong labels those are the wrong ones.

    Args: as `hard`.
    """
    exponential = random.exponential(size=len(scores))
    losses = scores["loss"].to_numpy().astype(np.float64)
    waits = np.full(len(scores), np.inf)
    np.divide(exponential, losses, out=waits, where=losses > 0)
    return np.lexsort((exponential, waits))[:count]


DRAWS = {"hard": hard, "surprise": surprise}


def choose(past: Sequence[Past], request: Request, locate: Locate, score: Score | None) -> Manifest:
    """`budget` examples of a pool, drawn by the policy from what the model made of them.

    Those that the model can't be asked, being too long to learn, are not chosen: where they leave
    less than the budget, there are fewer.

    Raises:
        ValueError: no `score`, one that gave other rows or a loss that is no number of at least 0,
            or as `window.load`.
        OSError: as `window.load`.
    """
    if score is None:
        raise ValueError(f"policy {request.policy!r} needs a model's scores; give `score`")
    num_pool = request.pool_factor * request.budget
    pool = plan(past, policy="uniform", budget=num_pool, cursors=request.cursors)
    if not pool.choices:
        return Manifest(request.policy, request.budget, (), pool.cursors)
    scores = _checked(score(window.load(pool, locate)), pool.num_examples)
    asked = np.flatnonzero(scores["loss"].is_valid().to_numpy())
    random = np.random.default_rng([request.seed, int(pool.digest, 16)])
    count = min(request.budget, len(asked))
    chosen = asked[DRAWS[request.policy](scores.take(asked), count, random)]
    return Manifest(request.policy, request.budget, _picked(past, pool, chosen), pool.cursors)


def _checked(scores: pa.Table, num_rows: int) -> pa.Table:
    if scores.num_rows != num_rows:
        raise ValueError(f"{scores.num_rows} scores for {num_rows} examples")
    losses = scores["loss"].drop_null().to_numpy()
    if not (np.isfinite(losses) & (losses >= 0)).all():
        raise ValueError(
            "a loss of the pool is no finite number of at least 0; the model is broken"
        )
    return scores


def _picked(past: Sequence[Past], pool: Manifest, places: np.ndarray) -> tuple[Picked, ...]:
    """These places of the pool as rows of the periods."""
    periods = {one.period: one for one in past}
    ends = np.cumsum([choice.count for choice in pool.choices])
    owners = np.searchsorted(ends, places, side="right")
    picked = []
    for number, choice in enumerate(pool.choices):
        rows = choice.rows[places[owners == number] - (ends[number] - choice.count)]
        if len(rows):
            picked.append(Picked.of(periods[choice.period], rows))
    return tuple(picked)
