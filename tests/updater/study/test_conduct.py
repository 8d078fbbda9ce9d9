"""A study whose workers die: it is told whole, and run again it becomes what it would have been.

The workers are made up, so that nothing is trained; the workspace, the records, the report and
MLflow are real.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from updater.cli.main import run
from updater.demo import tickets
from updater.errors import InputError
from updater.initialise import init_workspace
from updater.progress import Progress
from updater.study import conduct, records
from updater.study.finish import finish
from updater.study.job import First, Job
from updater.study.pool import Failed, Task
from updater.study.results import Compressed, Run, Stage
from updater.workspace import Workspace

MONTHS = [f"2026-0{n}" for n in range(1, 5)]
CONFIG = Path(__file__).parents[3] / "docs" / "studies" / "tickets.workspace.toml"
STUDY = """
[study]
name = "s"
seeds = [0, 1]
[stream]
first = ["2026-01..2026-02"]
then = ["2026-03..2026-04"]
[validation]
first = ["2026-01"]
then = ["2026-02"]
seeds = [5, 6]
[arms.ewc]
regularizer.method = "ewc"
sweep = { "regularizer.strength" = [1e2, 1e3, 1e4] }
[arms.rehearsal]
[[compare]]
arm = "ewc"
reference = "rehearsal"
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("study") / "w"
    init_workspace(folder, CONFIG)
    tickets.write(folder / "tickets.jsonl", MONTHS, 60, 0)
    return Workspace.open(folder)


Die = Callable[[First | Job], str]


class Workers:
    """In the pool's place. Every job has the same accuracies, but for a better one at strength
    1e3; `die`: why a job's worker died, "" where it did not; `diverge`: the same of a first model's
    training, as `first.attempt` says it."""

    die: Die = staticmethod(lambda job: "")
    diverge: Callable[[First], str] = staticmethod(lambda first: "")
    machine = "this"  # of which first models are

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks: Sequence[Task]) -> list[Any]:
        return [self._done(task) for task in tasks]

    def _done(self, task: Task) -> Any:
        job = task.job
        if why := self.die(job):
            return Failed(task.title, f"{why}\nTraceback")
        if isinstance(job, First):
            if why := self.diverge(job):
                return why
            stage = Stage(job.stream.span.first[-1], scores(job, 0))
            job.place.mkdir(parents=True)
            records.write_first(job, stage, self.machine)
            return ""
        span = job.stream.span
        stages = [Stage(period, scores(job.first, 1), 9, seconds=1.5) for period in span.then]
        first = Stage(span.first[-1], scores(job.first, 0))
        right = job.settings.regularizer.strength == 1e3
        for last in stages[-1:]:
            stages[-1] = dataclasses.replace(last, scores=scores(job.first, 1 + right))
        made = Run(
            job.arm.name,
            job.seed,
            span.first,
            (first, *stages),
            choice=dict(job.choice),
            first_digest=self.machine,
            compressed=Compressed(90, 100, 1.0, 180, 200) if job.arm.way else None,
        )
        records.write(job, made)
        return made


def scores(first: First, right: int) -> dict[str, tuple[int, int]]:
    return dict.fromkeys(first.stream.span.periods, (70 + right + first.seed % 3, 100))


@pytest.fixture
def study(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., conduct.Conducted]:
    """Conducts the study, in which these workers die."""
    monkeypatch.setattr(conduct, "Pool", Workers)
    name = f"s-{tmp_path.name.replace('_', '-')}"[:60]

    def conducted(die: Die = Workers.die, text: str = STUDY) -> conduct.Conducted:
        path = tmp_path / "s.toml"
        path.write_text(text.replace('"s"', f'"{name}"'), "utf-8")
        monkeypatch.setattr(Workers, "die", staticmethod(die))
        return conduct.conduct(workspace, path)

    return conducted


def reported(job: First | Job, arm: str, seed: int) -> bool:
    return isinstance(job, Job) and (job.arm.name, job.seed) == (arm, seed)


def report(done: conduct.Conducted, name: str) -> str:
    return (done.folder / "report" / name).read_text("utf-8")


Study = Callable[..., conduct.Conducted]


def test_a_run_whose_worker_died_has_its_place_and_its_reason(
    study: Study, workspace: Workspace
) -> None:
    done = study(lambda job: "signal SIGKILL" if reported(job, "rehearsal", 1) else "")
    answer = finish(workspace, done)
    why = "signal SIGKILL; run again, the study tries it again"
    assert answer["arms"]["rehearsal"]["failures"] == {1: why}
    assert answer["failed"] == [{"title": "rehearsal, seed 1", "why": "signal SIGKILL"}]
    for name in ("study.html", "study.md"):
        assert "1 of 2" in report(done, name)
        assert f"rehearsal, seed 1, stopped: {why}" in report(done, name)
    kept = json.loads(report(done, "study.json"))["arms"]
    assert kept["rehearsal"]["failures"] == {"1": why}
    assert kept["rehearsal"]["steps"] == [18, None]
    assert "failures" not in kept["ewc"]


def test_an_arm_without_any_run_is_told(study: Study, workspace: Workspace) -> None:
    done = study(lambda job: "no avalanche" if job.seed < 2 and isinstance(job, Job) else "")
    answer = finish(workspace, done)
    assert {arm: found["failures"].keys() for arm, found in answer["arms"].items()} == {
        "ewc": {0, 1},
        "rehearsal": {0, 1},
    }
    assert report(done, "study.md").count("0 of 2") == 2
    assert "none finished" in report(done, "study.md")


def test_failures_with_one_title_are_all_told(study: Study, workspace: Workspace) -> None:
    """Two first models with one seed: with a trace of the training for the one arm."""
    arms = STUDY + '[arms.si]\nregularizer.method = "si"\n'
    done = study(lambda job: "full" if isinstance(job, First) and job.seed == 1 else "", arms)
    failed = finish(workspace, done)["failed"]
    assert [one["title"] for one in failed[:2]] == ["first model, seed 1"] * 2
    why = "its first model could not be made: full"
    assert failed[2:] == [
        {"title": title, "why": why}
        for title in ("ewc strength=1000.0, seed 1", "rehearsal, seed 1", "si, seed 1")
    ]


def test_a_dead_worker_is_exit_code_1_and_run_again_there_is_no_trace_of_it(
    study: Study, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dying = study(lambda job: "signal SIGKILL" if reported(job, "ewc", 0) else "")
    finish(workspace, dying)
    command = ["--json", "--quiet", "study", str(tmp_path / "s.toml")]
    command += ["--workspace", str(workspace.root)]
    assert run(command) == 1
    said = capsys.readouterr()
    assert "ewc strength=1000.0, seed 0: signal SIGKILL" in said.err
    assert json.loads(said.out)["arms"]["ewc"]["steps"] == [None, 18]
    again = study()
    answer = finish(workspace, again)
    assert (answer["failed"], again.keys) == ([], dying.keys)
    assert answer["arms"]["ewc"]["steps"] == [18, 18]
    assert "SIGKILL" not in report(again, "study.json")


def test_who_diverged_is_said_on_stderr_beside_json_as_at_the_console(
    study: Study, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (study().folder / "runs").glob("rehearsal-1-*.json")
    plain = json.loads(path.read_text("utf-8"))
    broken = {"stages": plain["stages"][:1], "failure": "2026-03: it diverged\nand more"}
    path.write_text(json.dumps({**plain, **broken}), "utf-8")
    command = ["--quiet", "study", str(tmp_path / "s.toml"), "--workspace", str(workspace.root)]
    sentence = "rehearsal, seed 1, stopped: 2026-03: it diverged\n"
    assert run(command) == 0
    said = capsys.readouterr()
    assert sentence in said.out
    assert "stopped" not in said.err
    assert run([*command, "--json"]) == 0
    said = capsys.readouterr()
    assert f"updater: {sentence}" in said.err
    answer = json.loads(said.out)
    assert answer["failed"] == []
    assert answer["arms"]["rehearsal"]["failures"] == {"1": "2026-03: it diverged\nand more"}


def test_mlflow_takes_what_is_made_of_a_study_of_which_nothing_was(
    study: Study, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    finish(workspace, study(lambda job: "full" if reported(job, "ewc", job.seed) else ""))
    finish(workspace, study(lambda job: "full" if job.seed == 0 else ""))
    finish(workspace, study())
    assert "MLflow" not in caplog.text


def test_a_run_that_died_on_its_way_is_told_as_far_as_it_came(study: Study) -> None:
    whole = study().runs[0]

    def die(job: First | Job) -> str:
        if not reported(job, "rehearsal", 0):
            return ""
        assert isinstance(job, Job)
        begun = dataclasses.replace(whole, arm="rehearsal", stages=whole.stages[:2])
        records.keep_state(records.new_state(job, begun), job, begun)
        records.write(job, begun)
        return "disk full"

    found = study(die, STUDY.replace("[arms.rehearsal]", "[arms.rehearsal]\ntraining.epochs = 9"))
    (died,) = (one for one in found.runs if one.failure)
    assert (died.arm, died.seed, len(died.stages)) == ("rehearsal", 0, 2)


def test_what_the_sweeps_tried_is_told(study: Study, workspace: Workspace) -> None:
    done = study()
    finish(workspace, done)
    (sweep,) = done.sweeps
    assert (sweep.arm, [one.choice["regularizer.strength"] for one in sweep.tries]) == (
        "ewc",
        [1e2, 1e3, 1e4],
    )
    assert [sorted(one.accuracies) for one in sweep.tries] == [[5, 6]] * 3
    assert sweep.chosen is sweep.tries[1]
    assert {run.arm: run.choice for run in done.runs} == {
        "ewc": {"regularizer.strength": 1e3},
        "rehearsal": {},
    }


NOT_WHOLE = (
    "a run of its sweep has failed, so that nothing is chosen yet; "
    "run again, the study tries it again"
)


def test_an_arm_of_which_every_choice_diverged_has_its_place(
    study: Study, workspace: Workspace
) -> None:
    """Known for good, so that nothing is tried again."""
    for path in (study().folder / "runs").glob("ewc-[56]-*.json"):
        text = path.read_text("utf-8")
        path.write_text(text.replace('"failure": ""', '"failure": "diverged"'), "utf-8")
    done = study(lambda job: "none is to run" if job.seed in (5, 6) else "")
    failures = finish(workspace, done)["arms"]["ewc"]["failures"]
    assert set(failures.values()) == {"every value of its sweep diverged on the validation stream"}
    assert done.failed == ()


def test_nothing_is_chosen_while_a_run_of_a_sweep_is_missing(
    study: Study, workspace: Workspace
) -> None:
    """A worker that died says nothing of its value: another start of the study might choose it."""
    done = study(lambda job: "full" if job.seed == 6 and strength(job) == 1e2 else "")
    failures = finish(workspace, done)["arms"]["ewc"]["failures"]
    assert set(failures.values()) == {NOT_WHOLE}
    (sweep,) = done.sweeps
    assert (sweep.chosen, sweep.at_edge) == (None, ())
    assert sweep.tries[0].failures.keys() == {6}
    for name in ("study.html", "study.md", "sweeps.csv", "study.json"):
        assert "full; run again, the study tries it again" in report(done, name)
    assert study().sweeps[0].chosen is not None


def test_records_of_another_first_model_are_not_compared_with(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brought from another machine, where the same seed had another first model."""
    there = study()
    shutil.rmtree(there.folder / "first")
    assert {run.first_digest for run in study().runs} == {"this"}  # alike, so that they may be told
    assert not (there.folder / "first").exists()  # and nothing was trained for it

    monkeypatch.setattr(Workers, "machine", "other")
    more = study(text=STUDY.replace("[arms.rehearsal]", "[arms.finetune]\n[arms.rehearsal]"))
    assert {run.arm for run in more.runs} == {"ewc", "finetune", "rehearsal"}
    assert {run.first_digest for run in more.runs} == {"other"}


def test_records_of_first_models_that_differ_are_told_apart(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of two machines, and no first model: it is made, and what began elsewhere is too."""
    done = study()
    shutil.rmtree(done.folder / "first")
    for path in (done.folder / "runs").glob("rehearsal-*.json"):
        path.write_text(path.read_text("utf-8").replace('"this"', '"other"'), "utf-8")
    monkeypatch.setattr(Workers, "machine", "other")
    assert {run.first_digest for run in study().runs} == {"other"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"seed": 0', '"seed": 1', "it is of rehearsal, seed 1"),
        ('"arm": "rehearsal"', '"arm": "ewc"', "it is of ewc, seed 0"),
        ('"period": "2026-03"', '"period": "2026-02"', "its updates are not the stream's"),
        ('"2026-04": [', '"2026-05": [', "2026-02 is not scored on every period of the stream"),
    ],
)
def test_a_record_of_something_else_is_not_taken(
    study: Study, old: str, new: str, said: str
) -> None:
    (path,) = (study().folder / "runs").glob("rehearsal-0-*.json")
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(InputError) as caught:
        study()
    assert (caught.value.what, caught.value.cure) == (
        f"{path} is broken: {said}",
        "remove it, and run again",
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"steps": 9', '"steps": "many"', "steps is 'many'"),
        ('"seconds": 1.5', '"seconds": null', "seconds is None"),
        ('"seconds": 1.5', '"seconds": -5', "seconds is -5"),
        ('"seconds": 1.5', '"seconds": Infinity', "seconds is inf"),
        ('"seconds": 1.5', '"seconds": NaN', "seconds is nan"),
        ('"steps": 9', '"steps": -1', "steps is -1"),
        ('"tokens": 0', '"tokens": -1', "tokens is -1"),
        ('"examples": 0', '"examples": -1', "examples is -1"),
        ('"importance_bytes": null', '"importance_bytes": -1', "importance_bytes is -1"),
        ('"peak_memory_bytes": 0', '"peak_memory_bytes": -1', "peak_memory_bytes is -1"),
        ('"2026-04": [70, 100]', '"2026-04": [70, "x"]', "70 right of 'x' on 2026-04"),
        ('"2026-04": [70, 100]', '"2026-04": [170, 100]', "170 right of 100 on 2026-04"),
        ('"failure": ""', '"failure": null', "failure is None"),
        ('"learnt_first": ["2026-01", ', '"learnt_first": ["2025-12", ', "learnt 2025-12, 2026-02"),
        ('"stages": [', '"stages": [], "verdicts": [', "verdicts"),
    ],
)
def test_a_record_with_a_value_that_none_can_have_is_exit_code_2(
    study: Study,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    said: str,
) -> None:
    (path,) = (study().folder / "runs").glob("rehearsal-0-*.json")
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    command = ["--quiet", "study", str(tmp_path / "s.toml"), "--workspace", str(workspace.root)]
    assert run(command) == 2
    errors = capsys.readouterr().err
    assert f"updater: {path} is broken: " in errors
    assert said in errors
    assert "remove it, and run again" in errors


@pytest.mark.parametrize(("num_broken", "num_more"), [(2, 0), (11, 1)])
def test_all_broken_records_are_named_at_once(study: Study, num_broken: int, num_more: int) -> None:
    """Of the sweep, of what it chose, of other arms and of the first models; and nothing runs."""
    done = study()
    runs = sorted((done.folder / "runs").glob("*.json"))
    broken = [*(done.folder / "first").glob("*/stage.json"), *reversed(runs)][:num_broken]
    assert len(broken) == num_broken
    for path in broken:
        path.write_text("{}", "utf-8")
    with pytest.raises(InputError) as caught:
        study(lambda job: "none is to run")
    said = str(caught.value)
    named = [path for path in broken if str(path) in said]
    assert len(named) == said.count(" is broken: ") == num_broken - num_more
    assert said.startswith(f"{num_broken} records are broken: ")
    assert f"(remove {broken[0].parent})" in said
    assert ("; and 1 more. " in said) == bool(num_more)
    assert said.endswith(" remove them, and run again.")


def test_what_a_sweep_may_choose_is_looked_at_before_it_runs(study: Study) -> None:
    done = study()
    for path in (done.folder / "runs").glob("ewc-[01]-*.json"):
        path.write_text("{}", "utf-8")
    for path in (done.folder / "runs").glob("ewc-[56]-*.json"):
        path.unlink()
    with pytest.raises(InputError, match="2 records are broken"):
        study(lambda job: "none is to run")
    assert not list((done.folder / "runs").glob("ewc-[56]-*.json"))


def test_a_record_without_a_stage_is_broken(study: Study) -> None:
    (path,) = (study().folder / "runs").glob("rehearsal-0-*.json")
    plain = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**plain, "stages": []}), "utf-8")
    with pytest.raises(InputError, match="it has no stage"):
        study()


@pytest.mark.parametrize("diverged", ["rehearsal-0-*", "ewc-5-*", "ewc-[56]-*"])
def test_the_progress_ends_at_the_whole_where_a_run_diverged(
    study: Study, monkeypatch: pytest.MonkeyPatch, diverged: str
) -> None:
    """A reported run; one choice's of a sweep; those of all choices, so that nothing is chosen."""
    for path in (study().folder / "runs").glob(f"{diverged}.json"):
        plain = json.loads(path.read_text("utf-8"))
        broken = {"stages": plain["stages"][:1], "failure": "diverged"}
        path.write_text(json.dumps({**plain, **broken}), "utf-8")
    assert reached(study, monkeypatch) == (14, 14)


def test_updates_of_a_worker_that_died_are_not_counted(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are still to be made."""
    (path,) = (study().folder / "runs").glob("rehearsal-1-*.json")
    path.unlink()
    again = partial(study, lambda job: "full" if reported(job, "rehearsal", 1) else "")
    assert reached(again, monkeypatch) == (12, 14)


def reached(study: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """How far the progress came, and its whole."""
    made = []

    class Counted(Progress):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **{**more, "shown": True})
            made.append(self)

    monkeypatch.setattr(conduct, "Progress", Counted)
    study()
    (progress,) = made
    return progress.n, progress.total


def test_nothing_stays_beside_the_record_of_a_run_that_was_killed_at_its_very_end(
    study: Study,
) -> None:
    (path,) = (study().folder / "runs").glob("rehearsal-0-*.json")
    (path.with_suffix("") / "state-1").mkdir(parents=True)
    study()
    assert not path.with_suffix("").exists()


def test_the_gate_judges_what_is_reported_and_no_sweep(study: Study) -> None:
    asked: dict[bool, set[bool]] = {True: set(), False: set()}

    def die(job: First | Job) -> str:
        if isinstance(job, Job):
            asked[job.seed in (5, 6)].add(job.replay is not None)
        return ""

    study(die, STUDY + '[replay]\nreview = "reject"\n')
    assert asked == {True: {False}, False: {True}}


@pytest.mark.parametrize("name", ["runs/rehearsal-0-*.json", "first/*/stage.json"])
@pytest.mark.parametrize("text", ['{"arm": "rehea', "{}", "[]"])
def test_a_broken_record_is_named_with_what_to_remove(study: Study, name: str, text: str) -> None:
    done = study()
    path = next(done.folder.glob(name))
    path.write_text(text, "utf-8")
    for other in (done.folder / "runs").glob("ewc-*"):
        other.unlink()  # so that the first models are asked for
    whole = path.parent if path.name == "stage.json" else path
    cure = "it" if whole == path else whole
    with pytest.raises(InputError, match=rf"{path} is broken: .* remove {cure}, and run again"):
        study()
    if whole.is_dir():
        shutil.rmtree(whole)
    else:
        whole.unlink()
    assert not study().failed


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[arms.rehearsal]", "[arms.rehearsal]\ntraining.devices = 2", "[arms.rehearsal]: tr"),
        ("[validation]", "[settings]\ntraining.devices = 2\n[validation]", "training.devices = 2"),
        (
            '{ "regularizer.strength" = [1e2, 1e3, 1e4] }',
            '{ "training.devices" = [1, 2] }',
            "[arms.ewc]: training.devices = 2",
        ),
    ],
)
def test_what_this_machine_can_not_train_is_refused_before_work(
    study: Study, old: str, new: str, said: str
) -> None:
    def die(job: First | Job) -> str:
        raise AssertionError(f"{job.title} was begun")

    with pytest.raises(InputError) as caught:
        study(die, STUDY.replace(old, new))
    assert said in str(caught.value)


def strength(job: First | Job) -> float | None:
    return job.settings.regularizer.strength if isinstance(job, Job) else None


def test_an_arm_of_which_no_choice_came_to_an_end_has_its_place(
    study: Study, workspace: Workspace
) -> None:
    done = study(lambda job: "full" if job.seed == 6 else "")
    failures = finish(workspace, done)["arms"]["ewc"]["failures"]
    assert set(failures.values()) == {NOT_WHOLE}
    assert "0 of 2" in report(done, "study.md")
    assert report(done, "sweeps.csv").count("its first model could not be made: full") == 3


def test_a_sweep_may_choose_what_needs_another_first_model(study: Study) -> None:
    """Synaptic intelligence needs the trace of the first model's training, EWC does not."""
    sweep = 'sweep = { "regularizer.method" = ["si"] }'
    done = study(text=STUDY.replace('sweep = { "regularizer.strength" = [1e2, 1e3, 1e4] }', sweep))
    assert not done.failed


SMALLER = """
[study]
name = "s"
seeds = [0, 1]
[stream]
first = ["2026-01..2026-02"]
[arms.uncompressed]
kind = "frozen"
[arms.pruned]
kind = "compress"
[arms.pruned.grid]
method = ["obd"]
sparsity = [0.5, 0.9]
[arms.fewer]
kind = "compress"
compression = { method = "obd", remove = "experts", sparsity = 0.25 }
"""


def test_what_compresses_is_told_beside_what_does_not_and_counts_as_one_unit_each(
    study: Study, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals: list[int] = []
    units: list[int] = []
    monkeypatch.setattr(
        conduct, "Progress", lambda name, total, **_: totals.append(total) or nullcontext(Told())
    )

    class Told:
        def update(self, number: int) -> None:
            units.append(number)

    done = study(lambda job: "signal SIGKILL" if reported(job, "fewer", 1) else "", SMALLER)
    assert (totals, sum(units)) == ([6], 0), "these workers count nothing themselves"
    again = study(text=SMALLER)
    assert (totals, sum(units)) == ([6, 6], 5)
    answer = finish(workspace, again)
    assert list(answer["arms"]) == ["uncompressed", "obd 50 %", "obd 90 %", "fewer"]
    assert set(answer["compressions"]) == {"obd 50 %", "obd 90 %", "fewer"}
    assert len(done.failed) == 1
    assert not again.failed


@pytest.mark.parametrize(
    ("sparsity", "remove", "said"),
    [
        (0.9, "experts", "the arm 'fewer': sparsity of experts = 0.9"),
        (0.01, "experts", "so little is none of n_routed_experts"),
        (0.5, "heads", ""),
    ],
)
def test_more_than_the_model_can_lose_is_refused_before_any_work(
    study: Study, workspace: Workspace, sparsity: float, remove: str, said: str
) -> None:
    text = SMALLER.replace('"experts", sparsity = 0.25', f'"{remove}", sparsity = {sparsity}')
    if not said:
        assert not study(text=text).failed
        return
    with pytest.raises(InputError) as caught:
        study(text=text)
    assert said in str(caught.value)
