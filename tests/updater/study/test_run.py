"""One arm with one seed: what each kind does, and that a kill between stages changes nothing."""

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from updater.config import override
from updater.demo import tickets
from updater.errors import InputError
from updater.ingest.write import EXAMPLES
from updater.initialise import init_workspace
from updater.settings import (
    FieldTemplates,
    ModelSettings,
    PeriodSettings,
    ScratchSettings,
    Settings,
    SourceSettings,
    TrainingSettings,
    WorkspaceSettings,
)
from updater.study import records
from updater.study.fine_tuned import FineTuned, _starts
from updater.study.first import prepare
from updater.study.job import First, Job
from updater.study.plan import Arm, Span, Validation
from updater.study.replay import ReplaySettings
from updater.study.results import Run, Stage
from updater.study.run import run
from updater.study.stream import PeriodData, Stream, held_back, of_workspace
from updater.study.students import STUDENTS
from updater.train.memory import trace_of
from updater.workspace import Workspace

MONTHS = ("2026-01", "2026-02", "2026-03", "2026-04")
SPAN = Span(MONTHS[:2], MONTHS[2:])
NUM_TRAIN, NUM_HOLDOUT = 48, 16
CLINC = Path(__file__).parents[3] / "docs" / "studies" / "clinc.workspace.toml"


ALONE = {"rehearsal": {"policy": "none"}}

needs_avalanche = pytest.mark.skipif(
    importlib.util.find_spec("avalanche") is None, reason="the extra study is not installed"
)


def quiet() -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    data = {}
    for month in MONTHS:
        rows = [
            {"id": t["id"], "prompt": t["text"] + "\nQueue:", "completion": " " + t["category"]}
            for t in tickets.generate([month], NUM_TRAIN + NUM_HOLDOUT, 0)
        ]
        folder = tmp_path_factory.mktemp(month)
        paths = []
        for name, some in (("train", rows[:NUM_TRAIN]), ("holdout", rows[NUM_TRAIN:])):
            step = 2**64 // len(some) + 1
            keyed = [{"key": n * step, "subject": None, **row} for n, row in enumerate(some)]
            paths.append(folder / f"{name}.parquet")
            pq.write_table(pa.Table.from_pylist(keyed, EXAMPLES), paths[-1])
        data[month] = PeriodData(month, f"digest-{month}", *paths, NUM_TRAIN)
    return Stream(SPAN, data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_json: str) -> Settings:
    architecture = tmp_path_factory.mktemp("model") / "config.json"
    architecture.write_text(tiny_json)
    return Settings(
        workspace=WorkspaceSettings(name="w"),
        source=SourceSettings(
            uri="x.jsonl", fields=FieldTemplates(prompt="{p}", completion="c", date="{d}")
        ),
        periods=PeriodSettings(every="month"),
        model=ModelSettings(architecture=str(architecture), vocabulary_size=300),
        training=TrainingSettings(epochs=1, batch_size=8),
        scratch=ScratchSettings(epochs=1),
    )


@pytest.fixture(scope="module")
def job(stream: Stream, folder: Path, settings: Settings) -> Callable[..., Job]:
    def made(name: str, kind: str = "update", more: Any = None, **options: Any) -> Job:
        own = override(settings, more or {"regularizer": {"method": "none"}}, "test")
        trace = trace_of(own.regularizer)
        first = First(settings, 0, stream, folder, 1, trace)
        prepare(first, quiet)
        return Job(Arm(name, kind, own, **options), first)

    return made


def untimed(done: Run) -> Run:
    """Without what no two runs have alike."""
    stages = tuple(dataclasses.replace(stage, seconds=0.0) for stage in done.stages)
    return dataclasses.replace(done, stages=stages, peak_memory_bytes=0, arm="")


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
        student._starts = student._cursors = _starts(dataclasses.replace(one, first=first))
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


def test_what_is_held_back_is_scored_and_not_learnt(stream: Stream, tmp_path: Path) -> None:
    validation = Validation(SPAN, (0,), 0.25)
    split = held_back(stream, validation, tmp_path)
    assert held_back(stream, validation, tmp_path) == split
    for month in MONTHS:
        train, holdout, whole = (
            set(table["id"].to_pylist())
            for table in (split.train(month), split.holdout(month), stream.train(month))
        )
        assert not train & holdout
        assert train | holdout == whole
        assert len(holdout) == NUM_TRAIN // 4
        assert not holdout & set(stream.holdout(month)["id"].to_pylist())
        assert split.data[month].digest != stream.data[month].digest


def test_too_few_to_hold_some_back_is_told(stream: Stream, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 train examples are left and 48 held back"):
        held_back(stream, Validation(SPAN, (0,), 0.99), tmp_path)


def test_a_period_without_a_holdout_cannot_be_studied(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    init_workspace(workspace, CLINC)
    rows = [
        {"id": f"{domain}-{split}-{n}", "intent": "yes", "domain": domain, "split": split}
        for domain, split in (("banking", "train"), ("banking", "test"), ("home", "train"))
        for n in range(3)
    ]
    lines = [json.dumps(row | {"text": f"words of {row['id']}"}) for row in rows]
    (workspace / "clinc150.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="period home has 3 train and 0 holdout examples"):
        of_workspace(Workspace.open(workspace), Span(("banking",), ("home",)))


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


def test_how_many_runs_share_the_machine_is_part_of_the_key_where_it_is_said(
    job: Callable[..., Job],
) -> None:
    one = job("shared")
    assert len({dataclasses.replace(one, processes=n).key for n in (0, 1, 2)}) == 3
    assert dataclasses.replace(one, processes=0).key == one.key


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
