"""One arm that compresses with one seed: what it makes, looks at, learns again, and records."""

import dataclasses
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from study_runs import MONTHS, NUM_HOLDOUT, quiet, untimed

from updater.study import compressing, records
from updater.study import shown as shows
from updater.study.compressing import run
from updater.study.job import Job
from updater.study.plan import Span
from updater.study.results import Run, Stage
from updater.study.run import run as walk
from updater.study.shown import learnt, shown
from updater.study.stream import Stream


@pytest.fixture
def make(job: Callable[..., Job]) -> Callable[..., Job]:
    """Of the settings of [compression], and of others by their sections."""

    def made(name: str, control: str = "none", more: Any = None, **compression: Any) -> Job:
        own = {"compression": compression, "regularizer": {"num_examples": 12}, **(more or {})}
        return job(name, "compress", own, control=control)

    return made


def sizeless(done: Run) -> Run:
    """Without what no two runs have alike."""
    assert done.compressed is not None
    clocks = {"seconds": 0.0, "per_second": None, "base_per_second": None}
    return dataclasses.replace(
        untimed(done), compressed=dataclasses.replace(done.compressed, **clocks)
    )


def no_metrics(_step: int, _metrics: dict[str, float]) -> None:
    """They go nowhere."""


def test_weights_go_and_what_is_left_is_scored_on_every_period(make: Callable[..., Job]) -> None:
    one = make("obd", method="obd", sparsity=0.5)
    told: list[int] = []
    done = run(one, lambda: told.append(1))
    assert len(told) == 1
    assert [stage.period for stage in done.stages] == [MONTHS[1], *MONTHS[2:]]
    for stage in done.stages:
        assert {p: n for p, (_, n) in stage.scores.items()} == dict.fromkeys(MONTHS, NUM_HOLDOUT)
        assert stage.scores == done.stages[0].scores, "it learns no update"
        assert stage.steps == 0
    small = done.compressed
    assert small is not None
    assert small.num_parameters == small.base_parameters
    assert 0.3 < small.nonzero_fraction < 0.95
    assert small.bytes_ratio == 1
    assert small.seconds > 0
    assert small.per_second is not None
    assert small.base_per_second is not None
    assert records.finished(one) == done
    assert not one.place.exists()
    assert run(one, lambda: told.append(2)) == done
    assert told == [1], "a finished one is not made again"


def test_parts_go_and_the_files_are_smaller(make: Callable[..., Job]) -> None:
    done = run(make("neurons", method="magnitude", remove="neurons", sparsity=0.5), quiet)
    assert done.compressed is not None
    assert done.compressed.num_parameters < done.compressed.base_parameters
    assert done.compressed.bytes_ratio < 1


def test_quantized_weights_take_fewer_bytes_and_have_no_clock(make: Callable[..., Job]) -> None:
    done = run(make("int8", quantize="int8"), quiet)
    small = done.compressed
    assert small is not None
    assert small.bytes_ratio < 1
    assert (small.per_second, small.speed_ratio) == (None, None)


@pytest.mark.parametrize("recovery", ["finetune", "distill"])
def test_a_recovery_learns_as_many_as_an_update_would_rehearse(
    make: Callable[..., Job], recovery: str
) -> None:
    """A quarter of 96, in batches of 8, twice."""
    one = make(recovery, method="obd", sparsity=0.5, recovery=recovery)
    done = run(one, quiet)
    assert done.compressed is not None
    assert done.compressed.steps == 6
    rehearsing = {"rehearsal": {"policy": "uniform", "budget": 16}}
    given = {"method": "obd", "recovery": recovery, "recovery_epochs": 1}
    fewer = run(make(f"fewer-{recovery}", more=rehearsing, **given), quiet).compressed
    assert fewer is not None
    assert fewer.steps == 2
    assert 0 < fewer.tokens < done.compressed.tokens / 2
    assert fewer.nonzero_fraction == done.compressed.nonzero_fraction, "zeros stay"


def test_the_control_is_of_the_same_shape_and_trained_as_the_first_model(
    make: Callable[..., Job],
) -> None:
    parts = {"method": "magnitude", "remove": "neurons", "sparsity": 0.5}
    small = run(make("small", **parts), quiet).compressed
    done = run(make("control", "scratch", **parts), quiet)
    control = done.compressed
    assert small is not None
    assert control is not None
    assert (control.num_parameters, control.num_bytes) == (small.num_parameters, small.num_bytes)
    assert control.steps == 12  # 96 examples in batches of 8, once
    first = records.first_stage(make("first", **parts).first)
    assert first is not None
    assert control.tokens == first.tokens
    again = run(make("again", "scratch", **parts), quiet)
    assert sizeless(again) == sizeless(done)


def test_all_arms_of_a_seed_look_at_one_fisher_which_is_estimated_once(
    make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated: list[int] = []
    real = shows.estimate

    def counted(*args: Any, **options: Any) -> Any:
        estimated.append(1)
        return real(*args, **options)

    monkeypatch.setattr(shows, "estimate", counted)
    more = {"regularizer": {"num_examples": 10}}
    jobs = [make(name, more=more, method=name) for name in ("obd", "obd_scaled")]
    files = [shown(one)[0].fisher for one in jobs]
    assert files[0] is not None
    assert files[0] == files[1]
    assert len(estimated) == 1
    seconds = {shown(one)[1] for one in jobs}
    assert len(seconds) == 1, "whoever found it, each has paid"
    assert seconds.pop() > 0
    sampled = make("sampled", more={"regularizer": {"estimator": "sampled"}}, method="obd")
    assert shown(sampled)[0].fisher != files[0]
    assert shown(make("magnitude", method="magnitude")) == (
        dataclasses.replace(shown(jobs[0])[0], fisher=None),
        0.0,
    )


def test_what_a_training_recorded_is_not_the_fisher_of_its_end(make: Callable[..., Job]) -> None:
    recorded = {"regularizer": {"estimator": "optimizer", "method": "online_ewc"}}
    assert shown(make("recorded", more=recorded, method="obd"))[0].estimator == "empirical"


def test_examples_are_the_seeds_own_and_the_same_for_all_its_arms(make: Callable[..., Job]) -> None:
    def seen(one: Job, seed: int) -> tuple[list[int], list[int]]:
        other = dataclasses.replace(one, first=dataclasses.replace(one.first, seed=seed))
        place = one.first.place
        if other.first.place != place:
            shutil.copytree(place, other.first.place, dirs_exist_ok=True)
        examples, again = shown(other)[0].examples, learnt(other, no_metrics)
        assert examples is not None
        assert again is not None
        return examples.tokens.tolist(), again.lesson.examples.tokens.tolist()

    wanda = make("wanda", method="wanda", num_examples=8, recovery="finetune")
    spread = make("spread", method="obd_sd", num_examples=8, recovery="distill")
    assert seen(wanda, 0) == seen(wanda, 0) == seen(spread, 0)
    assert seen(wanda, 0)[0] != seen(wanda, 5)[0]
    assert seen(wanda, 0)[1] != seen(wanda, 5)[1]


def test_one_that_diverges_says_so_and_is_finished(make: Callable[..., Job]) -> None:
    wild = {"training": {"learning_rate": 1e4, "gradient_clip": 0}}
    one = make("wild", more=wild, method="obd", recovery="finetune", recovery_epochs=9)
    told: list[int] = []
    done = run(one, lambda: told.append(1))
    assert done.failure.startswith("training stopped at step")
    assert done.compressed is None
    assert told == [1]
    assert records.finished(one) == done
    assert not one.place.exists()


@pytest.mark.parametrize("killed_in", ["compress", "scores"])
def test_killed_on_its_way_it_starts_anew(
    make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    given = {"method": "wanda", "num_examples": 8, "sparsity": 0.7}
    whole = run(make(f"whole-{killed_in}", **given), quiet)
    one = make(f"torn-{killed_in}", **given)
    assert one.key == make("x", **given).key

    def killed(*_: Any, **__: Any) -> None:
        (one.place / "left").write_text("of a worker that was killed")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compressing, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            run(one, quiet)
    assert records.recorded(one) is None
    assert (one.place / "left").exists()
    assert sizeless(run(one, quiet)) == sizeless(whole)
    assert not one.place.exists()


def test_frozen_without_an_update_has_its_record(job: Callable[..., Job], stream: Stream) -> None:
    one = job("alone", "frozen")
    ends = Stream(Span(stream.span.first, ()), stream.data)
    short = dataclasses.replace(one, first=dataclasses.replace(one.first, stream=ends))
    shutil.copytree(one.first.place, short.first.place, dirs_exist_ok=True)
    assert records.finished(short) is None
    done = walk(short, quiet)
    stage: Stage | None = records.first_stage(short.first)
    assert done.stages == (stage,)
    assert records.finished(short) == done
