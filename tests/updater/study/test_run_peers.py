"""One arm with one seed that runs a strategy of Avalanche's."""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from study_runs import MONTHS, NUM_HOLDOUT, NUM_TRAIN, quiet, untimed

from updater.study import records
from updater.study.job import Job
from updater.study.results import Stage
from updater.study.run import run
from updater.study.students import STUDENTS

ALONE = {"rehearsal": {"policy": "none"}}

needs_avalanche = pytest.mark.skipif(
    importlib.util.find_spec("avalanche") is None, reason="the extra study is not installed"
)


THEIRS = {
    "naive": 0.0,
    "cumulative": 0.0,
    "replay": 0.0,
    "ewc": 1.0,
    "online_ewc": 1.0,
    "si": 1.0,
    "mas": 1e-3,
    "lwf": 1.0,
    "gem": 0.0,
    "agem": 0.0,
    "der": 0.1,
    "der++": 0.1,
    "replay+ewc": 1.0,
}


def theirs(strategy: str, strength: float) -> dict[str, Any]:
    return {
        "kind": "avalanche",
        "strategy": strategy,
        "more": {
            "regularizer": {"method": "none", "strength": strength},
            "rehearsal": {"policy": "balanced", "budget": 12},
        },
    }


@needs_avalanche
@pytest.mark.parametrize(("strategy", "strength"), THEIRS.items())
def test_each_of_avalanches_strategies_learns_the_stream(
    job: Callable[..., Job], strategy: str, strength: float
) -> None:
    done = run(job(f"their-{strategy}", **theirs(strategy, strength)), quiet)
    assert done.failure == ""
    assert [stage.period for stage in done.stages] == [MONTHS[1], *MONTHS[2:]]
    for stage in done.stages[1:]:
        assert {p: n for p, (_, n) in stage.scores.items()} == dict.fromkeys(MONTHS, NUM_HOLDOUT)
        assert stage.steps >= NUM_TRAIN / 8
        assert stage.examples >= NUM_TRAIN
        assert stage.tokens > stage.examples
        assert stage.seconds > 0


@needs_avalanche
def test_a_peer_that_is_stopped_begins_anew_and_ends_the_same(job: Callable[..., Job]) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    given = theirs("replay+ewc", 1.0)
    whole = run(job("their-whole", **given), quiet)
    parted = dataclasses.replace(job("their-parted", **given))
    for path in parted.first.folder.glob("runs/their-whole*"):
        path.unlink()
    with pytest.raises(Stopped):
        run(parted, stop)
    assert untimed(run(parted, quiet)) == untimed(whole)


@needs_avalanche
def test_their_naive_is_our_fine_tuning(job: Callable[..., Job]) -> None:
    ours = run(job("ours", more={"regularizer": {"method": "none"}, **ALONE}), quiet)
    naive = run(job("naive", kind="avalanche", strategy="naive", more=ALONE), quiet)
    for one, other in zip(ours.stages, naive.stages, strict=True):
        assert (one.steps, one.examples, one.tokens) == (other.steps, other.examples, other.tokens)


@needs_avalanche
@pytest.mark.parametrize("deployed", [True, False])
def test_a_peer_begun_anew_learns_what_was_deployed_alone(
    job: Callable[..., Job], deployed: bool
) -> None:
    """As one that never stopped; and as if what was not deployed had not been."""
    one = job(f"their-{deployed}", kind="avalanche", strategy="naive", more=ALONE)
    first = records.first_stage(one.first)
    assert first is not None
    before = (first, Stage(MONTHS[2], first.scores, deployed=deployed))
    begun, anew = (STUDENTS["avalanche"](one) for _ in range(2))
    if deployed:
        begun.learn(MONTHS[2], before[:1])
        begun.learn(MONTHS[3], before)
    else:
        begun.learn(MONTHS[3], before[:1])
    anew.learn(MONTHS[3], before)
    pairs = zip(begun.model.network.parameters(), anew.model.network.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@needs_avalanche
@pytest.mark.parametrize(("strategy", "num_known"), [("ewc", 1), ("replay", 2), ("replay+ewc", 2)])
def test_a_peer_knows_the_first_periods_at_once_but_for_a_memory(
    job: Callable[..., Job], strategy: str, num_known: int
) -> None:
    from updater.study.peers.student import PeerStudent

    peer, _ = PeerStudent(job(f"known-{strategy}", **theirs(strategy, 1.0)))._begun()
    assert peer._num_periods == num_known


@needs_avalanche
def test_what_a_peer_gathers_of_the_first_periods_is_paid_once(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    from updater.study.peers.student import PeerStudent

    begun = PeerStudent._begun
    monkeypatch.setattr(PeerStudent, "_begun", lambda self: (begun(self)[0], 1e6))
    one = job("their-cost", kind="avalanche", strategy="naive", more=ALONE)
    first = records.first_stage(one.first)
    assert first is not None
    assert PeerStudent(one).learn(MONTHS[2], (first,)).seconds > 1e6
    later = (first, Stage(MONTHS[2], first.scores))
    assert PeerStudent(one).learn(MONTHS[3], later).seconds < 1e6
