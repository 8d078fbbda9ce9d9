"""Hard and surprise: their shares, their frequencies, their pool, and what they refuse."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rehearsal import window
from rehearsal.choose import choose
from rehearsal.manifest import plan
from rehearsal.request import Request
from rehearsal.scored import HARD_FRACTION, hard, surprise


def scores(losses, correct=None):
    correct = [True] * len(losses) if correct is None else correct
    return pa.table({"correct": pa.array(correct, pa.bool_()), "loss": pa.array(losses)})


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_hard_takes_wrong_ones_first_and_keeps_half_for_the_rest(correct, data):
    count = data.draw(st.integers(0, len(correct)))
    chosen = hard(scores([1.0] * len(correct), correct), count, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == count
    num_wrong = sum(not correct[place] for place in chosen)
    assert num_wrong >= min(correct.count(False), round(HARD_FRACTION * count))


def test_hard_is_uniform_within_its_shares():
    """20 of which 12 are wrong, 8 drawn, 2000 seeds: 4 wrong ones, then 4 of the 16 left.

    So a wrong one is in with 4/12 + 8/12 * 4/16 = 1/2, a right one with 4/16. Each count is
    binomial(2000, p): the most extreme of 20, two sides, has a false alarm in 1 of 10^6.
    """
    correct = [place >= 12 for place in range(20)]
    counts = np.zeros(20)
    for seed in range(2000):
        counts[hard(scores([1.0] * 20, correct), 8, np.random.default_rng(seed))] += 1
    inclusion = np.where(correct, 4 / 16, 1 / 2)
    tails = np.minimum(
        stats.binom.cdf(counts, 2000, inclusion), stats.binom.sf(counts - 1, 2000, inclusion)
    )
    assert tails.min() > 1e-6 / 40


def test_surprise_draws_ordered_pairs_as_successive_weighted_draws_do():
    """Losses 1, 2, 3, 4, two drawn, 20,000 seeds, against all 12 ordered pairs by hand.

    P(i, then j) = w_i/10 * w_j/(10 - w_i). Chi-square of 11 degrees of freedom, false alarm in 1
    of 10^6. It also sees a draw with inclusion in proportion to the *squared* loss.
    """
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    pairs = list(itertools.permutations(range(4), 2))

    def expected(w):
        total = w.sum()
        return np.array([w[i] / total * w[j] / (total - w[i]) for i, j in pairs]) * 20_000

    counts = dict.fromkeys(pairs, 0)
    random = np.random.default_rng(0)
    for _ in range(20_000):
        counts[tuple(surprise(scores(weights), 2, random).tolist())] += 1
    found = np.array(list(counts.values()))
    critical = stats.chi2.isf(1e-6, len(pairs) - 1)
    assert ((found - expected(weights)) ** 2 / expected(weights)).sum() < critical
    wrong = expected(weights**2)
    assert ((found - wrong) ** 2 / wrong).sum() > critical


def test_surprise_takes_what_surprises_not_at_all_last_and_at_random():
    random = np.random.default_rng(0)
    firsts = set()
    for _ in range(200):
        chosen = surprise(scores([0.0, 1e-9, 0.0, 5.0, 0.0]), 3, random)
        assert set(chosen[:2].tolist()) == {1, 3}
        firsts.add(int(chosen[2]))
    assert firsts == {0, 2, 4}


@pytest.mark.parametrize("policy", ["hard", "surprise"])
def test_the_model_is_asked_once_about_a_window_that_goes_on(lay_past, scorer, policy):
    past, locate = lay_past([60, 100])
    asked, cursors = [], {}

    def noting(examples):
        asked.append(examples["id"].to_pylist())
        return scorer(examples)

    for _ in range(2):
        request = Request(policy, 10, cursors, pool_factor=4)
        manifest = choose(past, request, locate=locate, score=noting)
        pool = plan(past, policy="uniform", budget=40, cursors=cursors)
        assert asked[-1] == window.load(pool, locate)["id"].to_pylist()
        assert set(window.load(manifest, locate)["id"].to_pylist()) < set(asked[-1])
        cursors = manifest.cursors
        assert cursors == pool.cursors
    assert len(asked) == 2
    assert not set(asked[0]) & set(asked[1])


def test_the_seed_decides_among_equals(lay_past, scorer):
    past, locate = lay_past([200])
    made = {
        choose(past, Request("surprise", 10, seed=seed), locate=locate, score=scorer).digest
        for seed in (0, 1, 1)
    }
    assert len(made) == 2


def test_nothing_to_rehearse_asks_nothing(lay_past):
    past, locate = lay_past([20])
    for periods, budget in (([], 5), (past, 0)):
        request = Request("hard", budget)
        assert choose(periods, request, locate=locate, score=pytest.fail).choices == ()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (None, "needs a model's scores"),
        (lambda table: scores([1.0]), "1 scores for 20 examples"),
        (lambda table: scores([float("nan")] * 20), "the model is broken"),
        (lambda table: scores([-1.0] * 20), "the model is broken"),
    ],
)
def test_refuses_what_is_no_score(lay_past, score, message):
    past, locate = lay_past([20])
    with pytest.raises(ValueError, match=message):
        choose(past, Request("surprise", 5), locate=locate, score=score)
