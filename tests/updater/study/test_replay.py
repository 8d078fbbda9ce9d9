"""The gate over a stream: verdicts, what is deployed after each, and what users would have had."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updater.errors import InputError
from updater.gate import Rule
from updater.study.measures import measures
from updater.study.replay import Deployed, Outcomes, ReplaySettings, begin, judge, replayed
from updater.study.results import Run, Stage

NUM = 400
PERIODS = ("a", "b", "c")


def outcomes(**right: int) -> Outcomes:
    """Of 400 examples a period, the first so many right."""
    return {p: [(f"{p}{i}", i < right[p]) for i in range(NUM)] for p in PERIODS}


def first(**settings: object) -> Deployed:
    return begin(
        outcomes(a=360, b=10, c=10),
        learnt=["a"],
        rule=Rule(margin_fraction=0.05),
        settings=ReplaySettings(**settings),  # type: ignore[arg-type]
    )


def test_a_good_candidate_is_accepted_and_is_the_next_base() -> None:
    judged, after = judge(first(), outcomes(a=360, b=350, c=10), period="b")
    assert (judged.verdict, judged.deployed) == ("accepted", True)
    assert after.learnt == ("a", "b")
    assert after.base == "1"


def test_one_that_forgets_is_rejected_and_the_stream_goes_on_from_what_was() -> None:
    before = first()
    judged, after = judge(before, outcomes(a=200, b=350, c=10), period="b")
    assert (judged.verdict, judged.deployed) == ("rejected", False)
    assert "a is worse" in judged.reasons[0]
    assert after is before
    judged, after = judge(after, outcomes(a=360, b=10, c=350), period="c")
    assert judged.verdict == "accepted"  # b was never learnt, so it is not asked for
    assert after.learnt == ("a", "c")


@pytest.mark.parametrize(("answer", "deployed"), [("approve", True), ("reject", False)])
def test_a_review_is_answered_as_the_file_says(answer: str, deployed: bool) -> None:
    judged, _ = judge(first(review=answer), outcomes(a=345, b=350, c=10), period="b")
    assert (judged.verdict, judged.deployed) == ("review", deployed)


def test_without_following_the_gate_the_verdict_is_noted_and_the_stream_goes_on() -> None:
    judged, after = judge(first(follow_gate=False), outcomes(a=0, b=350, c=10), period="b")
    assert (judged.verdict, judged.deployed) == ("rejected", True)
    assert after.base == "1"


def test_small_losses_that_add_up_are_seen_against_the_best_that_was_deployed() -> None:
    _, after = judge(first(), outcomes(a=350, b=350, c=10), period="b")
    assert after.base == "1"  # 2.5 points lost: a review, approved
    judged, _ = judge(after, outcomes(a=325, b=350, c=350), period="c")
    assert judged.verdict == "rejected"
    assert "best deployed" in " ".join(judged.reasons)


def test_a_stream_goes_on_from_its_json_as_if_nothing_had_been() -> None:
    before = first()
    _, after = judge(before, outcomes(a=350, b=350, c=10), period="b")
    again = Deployed.from_json(after.to_json(), rule=before.rule, settings=before.settings)
    assert again == after
    candidate = outcomes(a=325, b=350, c=350)
    assert judge(again, candidate, period="c") == judge(after, candidate, period="c")


def test_a_period_without_a_holdout_rejects() -> None:
    candidate = dict(outcomes(a=360, b=350, c=10))
    before = first()
    empty = begin(
        {**before.versions["0"], "b": []},
        learnt=["a"],
        rule=before.rule,
        settings=before.settings,
    )
    judged, _ = judge(empty, {**candidate, "b": []}, period="b")
    assert judged.verdict == "rejected"


def test_different_examples_can_not_be_paired() -> None:
    candidate = {**outcomes(a=360, b=350, c=10), "a": [("x", True)]}
    with pytest.raises(ValueError, match="same examples"):
        judge(first(), candidate, period="b")


def test_another_answer_is_refused() -> None:
    with pytest.raises(InputError, match=r'\[replay\] review = "maybe"'):
        ReplaySettings(review="maybe")


def replay_run() -> Run:
    def stage(period: str, right: tuple[int, int, int], verdict: str, deployed: bool) -> Stage:
        scores = {p: (n, 10) for p, n in zip(PERIODS, right, strict=True)}
        return Stage(period, scores, 5, 50, 500, 1.5, 0, verdict, ("why",), deployed)

    return Run(
        "arm",
        0,
        ("a",),
        (
            stage("a", (8, 0, 0), "", True),
            stage("b", (2, 9, 0), "rejected", False),
            stage("c", (8, 1, 6), "review", True),
        ),
    )


def test_what_users_had_is_as_worked_by_hand() -> None:
    found = replayed(replay_run())
    assert found is not None
    assert (found.num_accepted, found.num_review, found.num_rejected) == (0, 1, 1)
    assert (found.num_deployed, found.last_deployed) == (1, "c")
    assert found.had == pytest.approx((0.8, (0.8 + 0.0) / 2, (0.8 + 0.1 + 0.6) / 3))
    assert found.mean_had == pytest.approx((0.8 + 0.4 + 0.5) / 3)
    assert (found.seconds, found.tokens) == (3.0, 1000)


def test_where_nothing_was_deployed_the_first_model_is() -> None:
    run = replay_run()
    found = replayed(dataclasses.replace(run, stages=run.stages[:2]))
    assert found is not None
    assert (found.num_deployed, found.last_deployed) == (0, "")


def test_the_measures_of_a_replay_are_of_what_users_had() -> None:
    found = measures(replay_run())
    assert found is not None
    assert found.new_accuracy == pytest.approx((0.0 + 0.6) / 2)
    assert found.worst_forgetting == pytest.approx(0.0)


def test_a_run_without_verdicts_is_no_replay() -> None:
    scores = dict.fromkeys(PERIODS, (1, 2))
    assert replayed(Run("arm", 0, ("a",), (Stage("a", scores), Stage("b", scores)))) is None


def test_a_replay_comes_back_from_its_json() -> None:
    assert Run.from_json(replay_run().to_json()) == replay_run()


def test_a_record_from_before_there_were_verdicts_is_read() -> None:
    stage = '{"period": "a", "scores": {"a": [1, 2]}}'
    plain = f'{{"arm": "x", "seed": 1, "learnt_first": ["a"], "stages": [{stage}]}}'
    assert Run.from_json(plain).stages[0].deployed


@given(st.lists(st.tuples(*[st.integers(0, NUM)] * 3), min_size=2, max_size=2))
def test_only_what_is_deployed_is_ever_a_base(rows: list[tuple[int, int, int]]) -> None:
    deployed = first()
    for period, (a, b, c) in zip("bc", rows, strict=True):
        judged, after = judge(deployed, outcomes(a=a, b=b, c=c), period=period)
        assert judged.deployed is (judged.verdict != "rejected")
        assert (after is deployed) is not judged.deployed
        assert (period in after.learnt) is judged.deployed
        deployed = after
