"""One arm with one seed: what each kind does, and that a kill between stages changes nothing."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from study_runs import MONTHS, NUM_HOLDOUT, SPAN, quiet, untimed

from updater.config import override
from updater.settings import Settings
from updater.study import records
from updater.study.fine_tuned import FineTuned, starts
from updater.study.first import prepare
from updater.study.job import LATER, Job, _plain
from updater.study.results import Stage
from updater.study.run import run
from updater.study.stream import Stream
from updater.study.students import STUDENTS


def test_a_stage_for_each_update_scored_on_every_period(job: Callable[..., Job]) -> None:
    one = job("plain", more={"rehearsal": {"policy": "balanced", "fraction": 0.25}})
    told: list[int] = []
    done = run(one, lambda: told.append(1))
    assert [stage.period for stage in done.stages] == [MONTHS[1], *MONTHS[2:]]
    assert len(told) == 2
    for stage in done.stages:
        assert {p: n for p, (_, n) in stage.scores.items()} == dict.fromkeys(MONTHS, NUM_HOLDOUT)
        assert stage.seconds > 0
    # 48 new and a quarter of 96, then of 144, old examples, in batches of 8.
    assert [stage.examples for stage in done.stages] == [96, 72, 84]
    assert [stage.steps for stage in done.stages] == [12, 9, 11]
    assert done.peak_memory_bytes > 50 * 2**20
    assert records.finished(one) == done
    assert not one.place.exists()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ewc", {"regularizer": {"method": "ewc", "num_examples": 16}}),
        ("online", {"regularizer": {"method": "online_ewc", "num_examples": 16}}),
        ("si", {"regularizer": {"method": "si"}, "rehearsal": {"policy": "none"}}),
        ("small", {"regularizer": {"format": "factored", "num_examples": 16}}),
        ("hard", {"regularizer": {"method": "none"}, "rehearsal": {"policy": "hard"}}),
        ("none", {"regularizer": {"method": "none"}, "rehearsal": {"policy": "uniform"}}),
    ],
)
def test_stopped_after_a_stage_it_ends_as_if_it_never_had(
    job: Callable[..., Job], name: str, more: Any
) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    whole = run(job(f"{name}-whole", more=more), quiet)
    parted = job(f"{name}-parted", more=more)
    assert parted.key == job(f"{name}-whole", more=more).key, "a name decides nothing"
    with pytest.raises(Stopped):
        run(parted, stop)
    assert [one.name for one in parted.place.glob("state-*")] == ["state-1"]
    assert untimed(run(parted, quiet)) == untimed(whole)


def test_an_unfinished_run_whose_state_is_gone_starts_again(job: Callable[..., Job]) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    one = job("bereft", more={"rehearsal": {"policy": "uniform"}})
    with pytest.raises(Stopped):
        run(one, stop)
    assert records.recorded(one) is not None
    shutil.rmtree(one.place)
    assert records.recorded(one) is None
    told: list[int] = []
    done = run(one, lambda: told.append(1))
    whole = run(job("unbereft", more={"rehearsal": {"policy": "uniform"}}), quiet)
    assert len(told) == 2
    assert untimed(done) == untimed(whole)
    assert records.finished(one) == done


def test_what_importance_takes_in_memory_is_in_the_record(job: Callable[..., Job]) -> None:
    taken = {}
    for form in ("float32", "bfloat16", "factored"):
        more = {"regularizer": {"method": "ewc", "num_examples": 4, "format": form}}
        one = job(form, more=more)
        first, *updates = run(one, quiet).stages
        assert first.importance_bytes is None
        (taken[form],) = {stage.importance_bytes for stage in updates}
    network = FineTuned(one).model.network
    assert taken["float32"] == 4 * sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert taken["bfloat16"] == taken["float32"] // 2
    assert 0 < taken["factored"] < taken["float32"] / 4
    assert {stage.importance_bytes for stage in run(job("plain"), quiet).stages[1:]} == {0}
    num_held = len(list(network.parameters()))  # one number each
    for scale in ("none", "mean"):
        ones = job("l2", more={"regularizer": {"method": "l2", "scale": scale}})
        assert {s.importance_bytes for s in run(ones, quiet).stages[1:]} == {4 * num_held}
    assert {stage.importance_bytes for stage in run(job("s", "scratch"), quiet).stages} == {None}


@pytest.mark.parametrize("policy", ["uniform", "balanced", "class_balanced", "hard"])
def test_another_seed_rehearses_and_weighs_by_other_examples(
    job: Callable[..., Job], policy: str
) -> None:
    """From the same model: so that the interval over seeds has the chance of the draw in it."""
    one = job("drawn", more={"rehearsal": {"policy": policy, "budget": 6}})
    stage = records.first_stage(one.first)
    assert stage is not None
    rehearsed, weighed = [], []
    for seed in (0, 0, 1):
        first = dataclasses.replace(one.first, seed=seed)
        student = FineTuned(one)
        student._starts = student._cursors = starts(dataclasses.replace(one, first=first))
        chosen = student._rehearsal([stage])
        assert chosen.num_examples == 6
        rehearsed.append(chosen.choices)
        student._settings = override(student._settings, {"regularizer": {"num_examples": 4}}, "t")
        weighed.append(student._sample(SPAN.first).tokens.tolist())
    assert rehearsed[0] == rehearsed[1] != rehearsed[2]
    assert weighed[0] == weighed[1] != weighed[2]


@pytest.mark.parametrize("num_learnt", [0, 1], ids=["before the first update", "after it"])
@pytest.mark.parametrize(
    ("name", "regularizer", "training"),
    [
        ("ewc", {"method": "ewc"}, {}),
        ("l2", {"method": "l2"}, {}),
        ("factored", {"method": "online_ewc", "format": "factored"}, {}),
        ("lora", {"method": "ewc"}, {"adapt": "lora"}),
        ("experts", {"method": "ewc"}, {"adapt": "lora", "lora_experts": True}),
        ("lwf", {"method": "lwf", "strength": 1.0}, {}),
    ],
)
def test_a_student_restored_learns_the_same_bit_for_bit(
    job: Callable[..., Job],
    tmp_path: Path,
    num_learnt: int,
    name: str,
    regularizer: dict[str, Any],
    training: dict[str, Any],
) -> None:
    held = {"strength": 1e4, "num_examples": 16, **regularizer}
    more = {"regularizer": held, "training": training, "rehearsal": {"policy": "uniform"}}
    one = job(f"student-{name}-{num_learnt}", more=more)
    stage = records.first_stage(one.first)
    assert stage is not None
    before = [stage, *(Stage(month, stage.scores) for month in SPAN.then)]
    student, restored = (STUDENTS["update"](one) for _ in range(2))
    for n in range(num_learnt):
        student.learn(SPAN.then[n], before[: n + 1])
    student.save(tmp_path)
    restored.restore(tmp_path)
    for model in (student, restored):
        model.learn(SPAN.then[num_learnt], before[: num_learnt + 1])
    ours = dict(student.model.network.named_parameters())
    theirs = dict(restored.model.network.named_parameters())
    assert ours.keys() == theirs.keys()
    assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == []


@pytest.mark.parametrize(
    ("killed_in", "call", "num_recorded"), [("keep_state", 1, 0), ("write", 1, 0), ("write", 2, 2)]
)
def test_a_kill_between_state_and_record_loses_that_stage_and_no_more(
    job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
    killed_in: str,
    call: int,
    num_recorded: int,
) -> None:
    one, whole = (job(f"{name}-{killed_in}-{call}") for name in ("torn", "whole"))
    real, times = getattr(records, killed_in), 0

    def killed(*args: Any) -> None:
        nonlocal times
        times += 1
        if times == call:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(records, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            run(one, quiet)
    known = records.recorded(one)
    assert (0 if known is None else len(known.stages)) == num_recorded
    assert untimed(run(one, quiet)) == untimed(run(whole, quiet))
    assert not one.place.exists()


def test_from_scratch_each_time_or_only_at_last(job: Callable[..., Job]) -> None:
    each = run(job("each", "scratch"), quiet)
    last = run(job("last", "scratch", every="last"), quiet)
    assert [stage.examples for stage in each.stages] == [96, 144, 192]
    assert [stage.examples for stage in last.stages] == [96, 0, 192]
    assert last.stages[1].scores == last.stages[0].scores
    assert last.stages[2].scores == each.stages[2].scores


def test_from_random_weights_all_of_them_are_trained_whatever_updates_adapt(
    job: Callable[..., Job], settings: Settings
) -> None:
    lora = override(settings, {"training": {"adapt": "lora"}}, "test")
    one = job("full", "scratch")
    arm = dataclasses.replace(one.arm, settings=lora)
    adapting = Job(arm, dataclasses.replace(one.first, settings=lora))
    prepare(adapting.first, quiet)
    assert adapting.first.place != one.first.place
    assert untimed(run(adapting, quiet)) == untimed(run(one, quiet))


def test_frozen_stays_what_it_was_at_no_cost(job: Callable[..., Job]) -> None:
    done = run(job("frozen", "frozen"), quiet)
    first = done.stages[0]
    assert done.stages[1:] == tuple(Stage(month, first.scores) for month in SPAN.then)


def test_the_average_lies_between_the_old_weights_and_the_new(job: Callable[..., Job]) -> None:
    def weights(weight: float) -> list[torch.Tensor]:
        one = job(f"average-{weight}", "average", weight=weight)
        student = STUDENTS["average"](one)
        stage = records.first_stage(one.first)
        assert stage is not None
        student.learn(SPAN.then[0], (stage,))
        return [p.detach() for p in student.model.network.parameters()]

    for old, middle, new in zip(*map(weights, (0.0, 0.25, 1.0)), strict=True):
        torch.testing.assert_close(middle, 0.75 * old + 0.25 * new)


def test_at_equal_compute_rehearsal_takes_no_more_steps(job: Callable[..., Job]) -> None:
    more = {"rehearsal": {"policy": "balanced", "fraction": 0.5}}
    done = run(job("equal", more=more, equal_compute=True), quiet)
    assert [stage.steps for stage in done.stages[1:]] == [6, 6]


def test_an_arm_that_diverges_says_so_and_is_finished(job: Callable[..., Job]) -> None:
    more = {"training": {"learning_rate": 1e4, "gradient_clip": 0, "epochs": 4}}
    one = job("wild", more=more)
    done = run(one, quiet)
    assert done.failure.startswith("2026-03: training stopped at step")
    assert records.finished(one) == done


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("ewc", {"regularizer": {"method": "ewc", "num_examples": 4}}, "importance can't be had"),
        ("hard", {"rehearsal": {"policy": "hard"}}, "the model's losses are no numbers"),
    ],
)
def test_an_arm_that_only_its_last_step_breaks_says_so_and_is_finished(
    job: Callable[..., Job], name: str, more: Any, said: str
) -> None:
    """No loss of the training shows it: the first who asks the model finds out."""
    training = {"learning_rate": 1e25, "warmup_fraction": 0, "max_steps": 1}
    one = job(
        f"broken-{name}", more={"regularizer": {"method": "none"}, "training": training, **more}
    )
    done = run(one, quiet)
    assert said in done.failure
    assert "training.learning_rate" in done.failure
    assert records.finished(one) == done


def test_another_setting_is_another_key(job: Callable[..., Job], stream: Stream) -> None:
    plain = job("key")
    assert job("key", more={"training": {"epochs": 2}}).key != plain.key
    assert job("key", "average").key != plain.key
    threads = dataclasses.replace(plain, first=dataclasses.replace(plain.first, threads=2))
    assert threads.key != plain.key
    other = dataclasses.replace(stream.data[MONTHS[3]], digest="new")
    changed = Stream(SPAN, {**stream.data, MONTHS[3]: other})
    moved = dataclasses.replace(plain, first=dataclasses.replace(plain.first, stream=changed))
    assert moved.key != plain.key


def test_how_many_runs_share_the_machine_is_part_of_the_key_where_it_is_said(
    job: Callable[..., Job],
) -> None:
    one = job("shared")
    assert len({dataclasses.replace(one, processes=n).key for n in (0, 1, 2)}) == 3
    assert dataclasses.replace(one, processes=0).key == one.key


def test_a_setting_that_came_later_is_another_key_only_where_it_is_used(
    job: Callable[..., Job],
) -> None:
    """So that records of before hold."""
    plain = job("later")
    for section, since in LATER.items():
        asked = getattr(plain.arm.settings, section)
        for name, before in since.items():
            assert getattr(asked, name) == before
    assert job("now", more={"training": {"activation_checkpointing": True}}).key != plain.key
    fields = json.dumps(_plain(plain.settings))
    assert not [name for since in LATER.values() for name in since if f'"{name}"' in fields]
