"""The ledger as its callers see it: what goes in comes out, once, on both databases."""

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from store.errors import ConflictError, NotFoundError
from store.ledger import Ledger, ModelVersion, Score, open_ledger

AT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


def score(version: str, dataset: str = "p@v1", *, correct: int = 8) -> Score:
    return Score(
        version=version,
        period=dataset.split("@")[0],
        dataset_version=dataset,
        num_correct=correct,
        num_examples=10,
        outcomes=f"outcomes/{version}-{dataset}.parquet",
        created_at=AT,
    )


def test_periods_come_in_their_order_and_may_be_corrected(ledger: Ledger) -> None:
    ledger.record_period("2026-02", 1, AT, AT + timedelta(days=1))
    ledger.record_period("2026-01", 0, None, None)
    ledger.record_period("2026-02", 1, AT, AT + timedelta(days=28))
    assert [p.id for p in ledger.periods()] == ["2026-01", "2026-02"]
    assert ledger.periods()[1].end_at == AT + timedelta(days=28)
    assert ledger.periods()[0].start_at is None


def test_a_time_comes_back_in_utc_whatever_zone_it_came_in(ledger: Ledger) -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    ledger.record_period("p", 0, AT.astimezone(there), None)
    start_at = ledger.periods()[0].start_at
    assert start_at == AT
    assert start_at is not None
    assert start_at.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        ledger.record_period("p", 0, datetime(2026, 1, 1), None)
    assert ledger.periods() == []


def test_a_dataset_version_comes_back_as_it_was(ledger: Ledger, story) -> None:
    first = story.dataset("p")
    second = story.dataset("p", 2)
    story.dataset("q")
    assert ledger.dataset_version("p@v1") == first
    assert [d.id for d in ledger.dataset_versions()] == ["p@v1", "p@v2", "q@v1"]
    assert ledger.dataset_versions("p") == [first, second]


def test_recording_a_dataset_version_again_changes_nothing(ledger: Ledger, story) -> None:
    first = story.dataset("p")
    ledger.record_dataset_version(dataclasses.replace(first, created_at=AT))
    assert ledger.dataset_versions() == [first]


def test_a_dataset_version_with_other_content_is_refused(ledger: Ledger, story) -> None:
    first = story.dataset("p")
    with pytest.raises(ConflictError, match=r"p@v1 is recorded with num_train 90 .* with 91"):
        ledger.record_dataset_version(dataclasses.replace(first, num_train=91))
    assert ledger.dataset_versions() == [first]


def test_a_dataset_version_needs_its_period(ledger: Ledger, story) -> None:
    first = story.dataset("p")
    orphan = dataclasses.replace(first, id="z@v1", period="z")
    with pytest.raises(NotFoundError, match="no period z in the ledger; there are: p"):
        ledger.record_dataset_version(orphan)


def test_an_update_opens_once_and_keeps_its_candidate(ledger: Ledger, story) -> None:
    opened = story.update("u1", None)
    story.version("1", None, update="u1")
    again = story.update("u1", None)
    assert opened.candidate is None
    assert again == dataclasses.replace(opened, candidate="1")
    assert ledger.updates() == [again]
    assert ledger.updates(period="p-u1") == [again]
    assert ledger.updates(period="other") == []


def test_tuples_in_a_configuration_come_back_as_lists_each_time(ledger: Ledger, story) -> None:
    opened = story.update("u1", None)
    config = {"order": ("a", "b"), "seed": 0}
    update = dataclasses.replace(opened, id="u2", config=config)
    assert ledger.open_update(update).config == {"order": ["a", "b"], "seed": 0}
    assert ledger.open_update(update).config == {"order": ["a", "b"], "seed": 0}


def test_an_update_needs_its_base_and_its_data(ledger: Ledger, story) -> None:
    opened = story.update("u1", None)
    with pytest.raises(NotFoundError, match=r"no version 9 .* none yet"):
        ledger.open_update(dataclasses.replace(opened, id="u2", base="9"))
    with pytest.raises(NotFoundError, match="no dataset version x@v1"):
        ledger.open_update(dataclasses.replace(opened, id="u2", dataset_version="x@v1"))
    with pytest.raises(ConflictError, match="config_digest"):
        ledger.open_update(dataclasses.replace(opened, config_digest="other"))
    with pytest.raises(NotFoundError, match="no update u2 in the ledger; there are: u1"):
        ledger.update("u2")


def test_a_long_list_of_what_there_is_stays_short(ledger: Ledger, story) -> None:
    for number in range(1, 24):
        story.version(str(number), None)
    with pytest.raises(NotFoundError, match=r"no version 99 .*: older ones, 4, 5, .*, 23$"):
        ledger.model_version("99")


def test_an_update_makes_one_candidate(ledger: Ledger, story) -> None:
    story.update("u1", None)
    story.version("1", None)
    story.version("2", None)
    with pytest.raises(NotFoundError, match="no version 3"):
        ledger.set_candidate("u1", "3")
    ledger.set_candidate("u1", "1")
    ledger.set_candidate("u1", "1")
    with pytest.raises(ConflictError, match="has made version 1"):
        ledger.set_candidate("u1", "2")
    assert ledger.update("u1").candidate == "1"


def test_a_step_counts_attempts_and_finishes_once(ledger_url: str, story_of: Callable) -> None:
    ticks = iter(AT + timedelta(seconds=n) for n in range(100))
    ledger = open_ledger(ledger_url, clock=lambda: next(ticks))
    story_of(ledger).update("u1", None)
    assert ledger.step("u1", "train") is None
    ledger.start_step("u1", "train")
    running = ledger.start_step("u1", "train")
    assert (running.state, running.attempts, running.seconds) == ("running", 2, None)
    finished = ledger.finish_step("u1", "train", {"version": "1"}, 2.5)
    assert (finished.state, finished.result, finished.seconds) == (
        "finished",
        {"version": "1"},
        2.5,
    )
    assert finished.finished_at is not None
    assert finished.finished_at > finished.started_at == running.started_at
    assert ledger.finish_step("u1", "train", {"version": "1"}, 99.0) == finished
    assert ledger.start_step("u1", "train") == finished
    assert [s.name for s in ledger.steps("u1")] == ["ingest", "train"]
    assert ledger.step("u1", "train") == finished


def test_a_step_can_t_finish_in_two_ways(ledger: Ledger, story) -> None:
    story.update("u1", None)
    with pytest.raises(ConflictError, match="never started"):
        ledger.finish_step("u1", "train", {}, 1.0)
    with pytest.raises(NotFoundError, match="no update u9"):
        ledger.start_step("u9", "train")
    story.step("u1", "train", {"version": "1"})
    with pytest.raises(ConflictError, match="result"):
        ledger.finish_step("u1", "train", {"version": "2"}, 1.0)


def test_what_no_database_can_keep_is_refused_and_nothing_changes(ledger: Ledger, story) -> None:
    story.update("u1", None)
    ledger.start_step("u1", "train")
    with pytest.raises(ValueError, match="numbers finite"):
        ledger.finish_step("u1", "train", {"loss": math.nan}, 1.0)
    with pytest.raises(ValueError, match=r"comparisons: .* finite"):
        ledger.record_verdict("u1", "review", reasons=[], comparisons=[{"low": -math.inf}], rule={})
    with pytest.raises(ValueError, match="plain JSON"):
        ledger.append("noted", actor="a", reason="r", payload={"at": AT})
    step = ledger.step("u1", "train")
    assert step is not None
    assert step.state == "running"
    assert ledger.verdicts() == []
    assert ledger.events() == []


def test_versions_come_back_in_the_order_they_were_made(ledger: Ledger, story) -> None:
    story.update("u1", None)
    tenth = story.version("10", None, update="u1")
    ninth = story.version("9", "10")
    assert ledger.model_versions() == [tenth, ninth]
    assert ledger.model_version("9") == ninth
    assert list(tenth.dataset_versions) == ["p"]


def test_a_version_is_recorded_once(ledger: Ledger, story) -> None:
    first = story.version("1", None)
    ledger.record_model_version(dataclasses.replace(first, created_at=AT))
    with pytest.raises(ConflictError, match="1 is recorded with digest 'sha-1'"):
        ledger.record_model_version(dataclasses.replace(first, digest="other"))
    with pytest.raises(NotFoundError, match="no version 7"):
        ledger.record_model_version(dataclasses.replace(first, id="2", base="7"))
    with pytest.raises(NotFoundError, match="no update u7"):
        ledger.record_model_version(dataclasses.replace(first, id="2", update="u7"))
    assert ledger.model_versions() == [first]


def test_learnt_periods_keep_their_order(ledger: Ledger) -> None:
    periods = {f"2026-{n:02}": f"2026-{n:02}@v1" for n in (10, 2, 7)}
    version = ModelVersion(
        id="1",
        kind="adopt",
        base=None,
        update=None,
        digest="d",
        uri="u",
        periods=list(periods),
        dataset_versions=periods,
        run_id="r",
        created_at=AT,
    )
    ledger.record_model_version(version)
    assert list(ledger.model_version("1").dataset_versions) == ["2026-10", "2026-02", "2026-07"]


def test_scores_are_whole_or_not_there(ledger: Ledger, story) -> None:
    story.dataset("p")
    story.dataset("q")
    story.version("1", None)
    with pytest.raises(NotFoundError, match="no version 2"):
        ledger.record_scores([score("1"), score("2")])
    assert ledger.scores() == []
    ledger.record_scores([score("1"), score("1", "q@v1", correct=5)])
    ledger.record_scores([score("1")])
    assert ledger.scores() == [score("1"), score("1", "q@v1", correct=5)]
    assert ledger.scores(version="1", period="q") == [score("1", "q@v1", correct=5)]
    assert ledger.scores(version="2") == []
    assert ledger.scores(period="q")[0].accuracy == 0.5
    with pytest.raises(ConflictError, match="1, p@v1 is recorded with num_correct 8"):
        ledger.record_scores([score("1", correct=7)])
    with pytest.raises(NotFoundError, match="no dataset version p@v9"):
        ledger.record_scores([score("1", "p@v9")])


@pytest.mark.parametrize("correct", [-1, 11])
def test_an_impossible_score_is_refused(correct: int) -> None:
    with pytest.raises(ValueError, match=f"num_correct: {correct} of 10"):
        score("1", correct=correct)


def test_the_first_verdict_stays(ledger: Ledger, story) -> None:
    story.update("u1", None)
    assert ledger.verdict("u1") is None
    given = {
        "reasons": ["banking is 0.03 worse"],
        "comparisons": [{"period": "banking", "low": -0.05, "high": None}],
        "rule": {"margin_fraction": 0.02},
    }
    first = ledger.record_verdict("u1", "rejected", **given)
    assert ledger.record_verdict("u1", "rejected", **given) == first
    assert ledger.verdict("u1") == first
    assert ledger.verdicts() == [first]
    assert (first.verdict, first.comparisons) == ("rejected", given["comparisons"])
    with pytest.raises(ConflictError, match="u1 is recorded with verdict 'rejected'"):
        ledger.record_verdict("u1", "accepted", **given)
    with pytest.raises(NotFoundError, match="no update u2"):
        ledger.record_verdict("u2", "accepted", **given)


def test_what_is_no_verdict_the_database_refuses(ledger: Ledger, story) -> None:
    story.update("u1", None)
    with pytest.raises(RuntimeError, match="verdict_known"):
        ledger.record_verdict("u1", "maybe", reasons=[], comparisons=[], rule={})
