"""One arm with one seed of which the gate decides what is deployed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from study_runs import MONTHS, quiet, untimed

from updater.study import records
from updater.study.fine_tuned import FineTuned
from updater.study.first import prepare
from updater.study.job import Job
from updater.study.plan import Span
from updater.study.replay import ReplaySettings
from updater.study.results import Stage
from updater.study.run import run
from updater.study.stream import Stream


def replayed_job(job: Callable[..., Job], name: str, **settings: Any) -> Job:
    more = {
        "regularizer": {"method": "ewc", "num_examples": 16},
        "gate": {"margin_fraction": 0.01, "confidence": 0.99},
    }
    return dataclasses.replace(job(name, more=more), replay=ReplaySettings(**settings))


def test_what_the_gate_does_not_deploy_was_never_learnt(
    job: Callable[..., Job], stream: Stream
) -> None:
    """The second update is as if the first had not been: on a stream without its period."""
    done = run(replayed_job(job, "strict", review="reject"), quiet)
    assert [stage.deployed for stage in done.stages] == [True, False, False]
    assert {stage.verdict for stage in done.stages[1:]} <= {"review", "rejected"}
    assert all(stage.reasons for stage in done.stages[1:])
    one = job("without", more={"regularizer": {"method": "ewc", "num_examples": 16}})
    short = Stream(Span(MONTHS[:2], MONTHS[3:]), stream.data)
    without = dataclasses.replace(one, first=dataclasses.replace(one.first, stream=short))
    prepare(without.first, quiet)
    expected = run(without, quiet).stages[-1]
    assert done.stages[-1].scores == expected.scores
    assert done.stages[-1].tokens == expected.tokens


def test_from_scratch_too_learns_nothing_of_what_was_not_deployed(job: Callable[..., Job]) -> None:
    gate = {"gate": {"margin_fraction": 0.01, "confidence": 0.99}}
    replay = ReplaySettings(review="reject")
    done = run(dataclasses.replace(job("anew", "scratch", more=gate), replay=replay), quiet)
    assert [stage.deployed for stage in done.stages] == [True, False, False]
    assert [stage.examples for stage in done.stages] == [96, 144, 144]


@pytest.mark.parametrize("deployed", [True, False])
def test_importance_is_paid_by_one_update_the_next_after_it(
    job: Callable[..., Job], deployed: bool
) -> None:
    one = job(f"paid-{deployed}", more={"regularizer": {"method": "ewc", "num_examples": 16}})
    first = records.first_stage(one.first)
    assert first is not None
    student = FineTuned(one)
    student.learn(MONTHS[2], (first,))
    student._owed_seconds = 1e6
    cost = student.learn(MONTHS[3], (first, Stage(MONTHS[2], first.scores, deployed=deployed)))
    assert (cost.seconds > 1e6) is deployed


def test_a_gate_that_is_not_followed_changes_no_model(job: Callable[..., Job]) -> None:
    noted = run(replayed_job(job, "noted", follow_gate=False), quiet)
    plain = run(job("open", more={"regularizer": {"method": "ewc", "num_examples": 16}}), quiet)
    assert [s.scores for s in noted.stages] == [s.scores for s in plain.stages]
    assert all(stage.verdict and stage.deployed for stage in noted.stages[1:])
    assert not any(stage.verdict for stage in plain.stages)


@pytest.mark.parametrize("review", ["approve", "reject"])
def test_a_replay_that_was_stopped_ends_as_if_it_never_had(
    job: Callable[..., Job], review: str
) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    whole = run(replayed_job(job, f"{review}-whole", review=review), quiet)
    parted = replayed_job(job, f"{review}-parted", review=review)
    with pytest.raises(Stopped):
        run(parted, stop)
    assert untimed(run(parted, quiet)) == untimed(whole)


def test_frozen_is_never_judged(job: Callable[..., Job]) -> None:
    one = dataclasses.replace(job("ice", "frozen"), replay=ReplaySettings())
    assert not any(stage.verdict for stage in run(one, quiet).stages)


def test_another_margin_is_another_key_where_the_gate_judges(job: Callable[..., Job]) -> None:
    plain, wider = (
        job("margin", more={"gate": {"margin_fraction": margin}}) for margin in (0.01, 0.2)
    )
    assert plain.key == wider.key
    judged = [dataclasses.replace(one, replay=ReplaySettings()) for one in (plain, wider)]
    assert len({plain.key, *(one.key for one in judged)}) == 3
