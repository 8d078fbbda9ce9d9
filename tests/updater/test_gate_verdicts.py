"""The gate: hand-made cases, properties, error rates by simulation, slow drift."""

import json
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from updater.gate import Paired, Rule, Verdict, best_deployed, decide, pair
from updater.gate_reasons import percent, points

RULE = Rule(margin_fraction=0.02, confidence=0.95)
ORDER = {"rejected": 0, "review": 1, "accepted": 2}


def paired(period, lost, won, n=1000, *, role="past", against="base", reference="3", right=None):
    both = (n - lost - won) // 2 if right is None else right
    return Paired(
        period=period,
        role=role,
        against=against,
        reference=reference,
        num_examples=n,
        both_right=both,
        reference_only=lost,
        candidate_only=won,
        neither=n - lost - won - both,
    )


def new(lost=0, won=600, n=1000, period="apr"):
    return paired(period, lost, won, n, role="new")


def judge(*comparisons, rule=RULE, past=("jan", "feb"), period="apr", best=None) -> Verdict:
    return decide(comparisons, rule, past=past, new=period, base="3", best=best)


def test_a_good_candidate_is_accepted_and_says_what_it_gained_and_what_is_least_sure():
    verdict = judge(paired("jan", 10, 12), paired("feb", 12, 9), new())
    assert verdict.verdict == "accepted"
    assert verdict.reasons[0].startswith("apr, the new period, improved over version 3: ")
    assert "+60.0 points" in verdict.reasons[0]
    assert "Both past periods hold within the margin of 2.0 points" in verdict.reasons[1]
    assert "the least sure is feb" in verdict.reasons[1]
    assert [c.result for c in verdict.comparisons] == ["passed"] * 3


def test_a_past_period_shown_worse_than_the_margin_rejects_and_is_named():
    verdict = judge(paired("jan", 10, 12), paired("feb", 200, 20), new())
    assert verdict.verdict == "rejected"
    (reason,) = verdict.reasons
    assert reason.startswith(
        "feb is worse than with version 3 by more than the margin of 2.0 points"
    )
    assert "-18.0 points" in reason
    assert "1,000 holdout examples" in reason


def test_too_few_examples_are_a_review_that_says_how_many_would_do():
    verdict = judge(paired("jan", 1, 1, n=50), paired("feb", 10, 12), new())
    assert verdict.verdict == "review"
    (reason,) = verdict.reasons
    assert reason.startswith("jan may be worse")
    assert "50 holdout examples cannot tell; about " in reason
    needed = verdict.comparisons[0].examples_needed
    assert needed is not None
    assert needed > 50
    scale = -(-needed // 50)
    again = judge(paired("jan", scale, scale, n=50 * scale), paired("feb", 10, 12, n=1000), new())
    assert again.verdict == "accepted"


def test_of_many_undecided_or_failed_comparisons_the_worst_are_told():
    past = [f"p{i}" for i in range(9)]
    close = [paired(p, i, 1, n=50) for i, p in enumerate(past)]
    review = decide([*close, new()], RULE, past=past, new="apr", base="3")
    assert review.verdict == "review"
    head, *told, rest = review.reasons
    assert head.startswith("9 of 10 comparisons are undecided")
    assert [reason.split()[0] for reason in told] == ["p8", "p7", "p6", "p5"]
    assert rest == "5 more are undecided; the report lists every comparison."
    bad = [paired(p, 500 + i, 1) for i, p in enumerate(past)]
    rejected = decide([*bad, new()], RULE, past=past, new="apr", base="3")
    assert [reason.split()[0] for reason in rejected.reasons] == ["p8", "p7", "p6", "p5", "5"]
    assert len(rejected.comparisons) == 10


def test_the_new_period_must_improve():
    past = (paired("jan", 10, 12), paired("feb", 12, 9))
    assert judge(*past, new(lost=60, won=3)).verdict == "rejected"
    assert "got worse" in judge(*past, new(lost=60, won=3)).reasons[0]
    assert judge(*past, new(lost=5, won=6)).verdict == "review"
    alike = judge(*past, new(lost=0, won=0))
    assert alike.verdict == "review"
    assert "answered too much alike" in alike.reasons[0]


def test_a_difference_on_the_line_says_that_no_number_of_examples_would_do():
    on_the_line = judge(paired("jan", 30, 10), paired("feb", 12, 9), new())
    assert on_the_line.verdict == "review"
    assert on_the_line.comparisons[0].examples_needed is None


def test_a_missing_score_rejects():
    verdict = judge(paired("jan", 10, 12), new())
    assert verdict.verdict == "rejected"
    assert verdict.reasons == (
        "feb: there is no score of both the candidate and version 3 on this period. A missing "
        "score rejects; evaluate both and judge again.",
    )
    empty = Paired("feb", "past", "base", "3", 0, 0, 0, 0, 0)
    assert judge(paired("jan", 10, 12), empty, new()).verdict == "rejected"
    assert judge(paired("jan", 10, 12), paired("feb", 1, 1)).verdict == "rejected"
    no_best = judge(paired("jan", 10, 12), paired("feb", 1, 1), new(), best={"jan": "1"})
    assert no_best.verdict == "rejected"
    assert "version 1" in no_best.reasons[0]


def test_a_first_model_is_accepted_because_there_is_nothing_to_compare_with():
    verdict = decide([], RULE, past=[], new="jan", base=None)
    assert verdict.verdict == "accepted"
    assert "first model" in verdict.reasons[0]
    assert verdict.comparisons == ()
    with pytest.raises(ValueError, match="must be empty"):
        decide([new()], RULE, past=[], new="apr", base=None)


def test_small_losses_that_each_pass_are_caught_when_they_add_up():
    """Each version truly loses 1.0 point against its base, with a margin of 2.0. 4,000 examples."""
    n, right = 4000, {str(v): 3600 - 40 * v for v in range(8)}
    verdicts = []
    for v in range(1, 8):
        base = str(v - 1)
        lost = right[base] - right[str(v)]
        comparisons = [paired("jan", lost, 0, n, reference=base, right=right[str(v)])]
        comparisons.append(paired(f"new{v}", 0, 500, role="new", reference=base))
        best = best_deployed(
            {(k, "jan"): r / n for k, r in right.items() if int(k) < v},
            [str(k) for k in range(v)],
            base,
        )
        if best:
            assert best == {"jan": "0"}
            total = right["0"] - right[str(v)]
            comparisons.append(
                paired("jan", total, 0, n, against="best", reference="0", right=right[str(v)])
            )
        verdict = decide(comparisons, RULE, past=["jan"], new=f"new{v}", base=base, best=best)
        against_base = next(c for c in verdict.comparisons if c.against == "base")
        assert against_base.result == "passed"  # alone, every step looks harmless
        verdicts.append(verdict.verdict)
    assert verdicts[0] == "accepted"
    assert set(verdicts[3:]) == {"rejected"}


def test_best_deployed_names_only_what_beats_the_base():
    accuracy = {("1", "jan"): 0.9, ("2", "jan"): 0.9, ("3", "jan"): 0.8, ("9", "jan"): 0.99}
    accuracy |= {("1", "feb"): 0.5, ("3", "feb"): 0.7}
    assert best_deployed(accuracy, ["1", "2", "3"], "3") == {"jan": "2"}
    assert best_deployed({("1", "jan"): 0.9}, ["1"], "3") == {"jan": "1"}
    assert best_deployed({("9", "jan"): 0.9}, ["1"], "3") == {}


def test_the_verdict_is_plain_json():
    verdict = judge(paired("jan", 10, 12), paired("feb", 200, 20), new())
    again = json.loads(json.dumps(verdict.as_dict(), allow_nan=False))
    assert again["verdict"] == "rejected"
    assert again["reasons"] == list(verdict.reasons)
    assert again["comparisons"][1]["result"] == "failed"
    assert again["comparisons"][1]["high"] < -0.02


def test_the_caller_is_told_of_its_own_bugs():
    with pytest.raises(ValueError, match="add up"):
        Paired("jan", "past", "base", "3", 10, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="add up"):
        Paired("jan", "past", "base", "3", 1, 1, 1, -1, 0)
    with pytest.raises(ValueError, match="twice"):
        judge(paired("jan", 1, 1), paired("jan", 1, 1), paired("feb", 1, 1), new())
    with pytest.raises(ValueError, match="not asked for"):
        judge(paired("jan", 1, 1), paired("feb", 1, 1, reference="7"), new())
    with pytest.raises(ValueError, match="one of the past"):
        decide([], RULE, past=["jan"], new="jan", base="3")
    with pytest.raises(ValueError, match="at least one"):
        decide([], RULE, past=[], new=None, base="3")
    for margin, confidence in [(0, 0.9), (1, 0.9), (0.1, 0.5), (0.1, 1.0)]:
        with pytest.raises(ValueError, match="must lie in"):
            Rule(margin, confidence)


def test_pair_joins_by_id_and_refuses_different_examples():
    before = [("a", True), ("b", True), ("c", False), ("d", False), ("e", True)]
    after = [("e", True), ("d", True), ("c", False), ("b", False), ("a", True)]

    def joined(x, y):
        return pair(x, y, period="jan", role="past", against="base", reference="3")

    found = joined(before, after)
    assert (found.both_right, found.reference_only, found.candidate_only, found.neither) == (
        2,
        1,
        1,
        1,
    )
    assert joined(reversed(before), after) == found
    with pytest.raises(ValueError, match="2 ids stand on one side only, such as 'a'"):
        joined(before, [*after[:-1], ("z", True)])
    with pytest.raises(ValueError, match="'a' appears twice"):
        joined([*before, ("a", True)], after)


def test_numbers_in_words():
    assert points(-0.0004) == "0.0 points"
    assert points(0.0126) == "+1.3 points"
    assert percent(1) == "100.0 %"


@st.composite
def outcomes(draw):
    n = draw(st.integers(1, 40))
    return [(draw(st.booleans()), draw(st.booleans())) for _ in range(n)]


def as_pair(period, role, pairs):
    ids = [str(i) for i in range(len(pairs))]
    return pair(
        zip(ids, (r for r, _ in pairs), strict=True),
        zip(ids, (c for _, c in pairs), strict=True),
        period=period,
        role=role,
        against="base",
        reference="3",
    )


@settings(max_examples=150, deadline=None)
@given(outcomes(), outcomes(), outcomes(), st.integers(0, 2), st.data())
def test_turning_a_wrong_answer_right_never_worsens_the_verdict(jan, feb, apr, which, data):
    rule = Rule(margin_fraction=data.draw(st.sampled_from([0.02, 0.1, 0.3])), confidence=0.8)
    sets = [jan, feb, apr]
    wrong = [i for i, (_, candidate) in enumerate(sets[which]) if not candidate]
    assume(wrong)
    index = data.draw(st.sampled_from(wrong))
    better = [list(s) for s in sets]
    better[which][index] = (sets[which][index][0], True)

    def verdict(given_sets):
        roles = [("jan", "past"), ("feb", "past"), ("apr", "new")]
        pairs = [as_pair(p, r, s) for (p, r), s in zip(roles, given_sets, strict=True)]
        return judge(*pairs, rule=rule).verdict

    assert ORDER[verdict(better)] >= ORDER[verdict(sets)]


@settings(max_examples=60, deadline=None)
@given(outcomes(), outcomes(), outcomes(), st.randoms(use_true_random=False))
def test_order_does_not_matter(jan, feb, apr, shuffle: random.Random):
    pairs = [as_pair("jan", "past", jan), as_pair("feb", "past", feb), as_pair("apr", "new", apr)]
    first = judge(*pairs)
    for outcome in (jan, feb, apr):
        shuffle.shuffle(outcome)
    again = [as_pair("jan", "past", jan), as_pair("feb", "past", feb), as_pair("apr", "new", apr)]
    shuffle.shuffle(again)
    assert judge(*again) == first


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_never_accepted_with_a_missing_period(losses, data):
    past = [f"p{i}" for i in range(len(losses))]
    pairs = [paired(p, lost, 3) for p, lost in zip(past, losses, strict=True)] + [new()]
    assert decide(pairs, RULE, past=past, new="apr", base="3").verdict == "accepted"
    gone = data.draw(st.integers(0, len(pairs) - 1))
    left = pairs[:gone] + pairs[gone + 1 :]
    assert decide(left, RULE, past=past, new="apr", base="3").verdict == "rejected"


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 5))
def test_result_and_bounds_agree(lost, won, num_periods):
    past = [f"p{i}" for i in range(num_periods)]
    pairs = [paired(p, lost, won) for p in past[:1]] + [paired(p, 30, 9) for p in past[1:]]
    verdict = decide([*pairs, new(lost, won)], RULE, past=past, new="apr", base="3")
    for c in verdict.comparisons:
        assert c.low <= c.difference + 1e-9
        assert c.difference - 1e-9 <= c.high
        if c.result == "passed":
            assert c.low >= c.threshold - 1e-9
            assert c.adjusted_p <= RULE.alpha + 1e-12
        elif c.result == "failed":
            assert c.high <= c.threshold + 1e-9
            assert c.adjusted_p_worse <= RULE.alpha + 1e-12
        else:
            assert c.low < c.threshold < c.high


def simulate(rng, loss, num_periods, n=1500):
    """A candidate that truly loses `loss` on every past period: 5 % of answers differ."""
    lost, won = (0.05 + loss) / 2, (0.05 - loss) / 2
    pairs = []
    for i in range(num_periods):
        a, b, _ = rng.multinomial(n, [lost, won, 1 - lost - won])
        pairs.append(paired(f"p{i}", int(a), int(b), n))
    past = [f"p{i}" for i in range(num_periods)]
    return decide([*pairs, new()], RULE, past=past, new="apr", base="3")


def test_family_wise_errors_by_simulation():
    """Truth on the margin in 6 periods. Any "passed" and any "failed" should each occur in at most
    5 % of 1,500 runs; the standard error is 0.006, so with a true rate of up to 0.055 (the normal
    approximation) a rate above 0.085 has probability below 1e-6."""
    rng = np.random.default_rng(11)
    runs = [simulate(rng, 0.02, 6) for _ in range(1500)]
    past = [[c.result for c in run.comparisons if c.role == "past"] for run in runs]
    assert np.mean(["passed" in results for results in past]) < 0.085
    assert np.mean(["failed" in results for results in past]) < 0.085
    assert sum(run.verdict == "accepted" for run in runs) == 0  # all six at once: 0.05^6 at most


def test_power_on_a_harmless_update():
    """Nothing truly lost, 6 past periods of 1,500 examples: mostly accepted, never rejected (a
    rejection needs a deviation of 5 standard errors: probability below 1e-4 in 300 runs)."""
    rng = np.random.default_rng(12)
    verdicts = [simulate(rng, 0.0, 6).verdict for _ in range(300)]
    assert verdicts.count("rejected") == 0
    assert verdicts.count("accepted") > 200
