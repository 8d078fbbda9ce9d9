"""A run's record on disk, and when it is finished. The study's folder holds nothing else of a
finished run; an unfinished one has its last stage's state beside it. No torch.

A record is of the first model that it began with. The same settings and seed give another first
model on another kind of machine, and runs that began with different ones are not to be compared:
a record of another first model than the one that lies here is none. Nor is that of an unfinished
run whose state is gone: what was learnt is in no other place.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from updater.errors import InputError
from updater.files import write_text
from updater.study.job import First, Job
from updater.study.results import Run, Stage

STATE = "state"
MOST_NAMED = 10
"""So many broken records are named one by one: as many lines as one looks at."""

_RULE = "a record stays as the study wrote it, under the name that it had"


class _BrokenError(InputError):
    """Running again would not help, so it is no failure of the work. `whole`: what has to go."""

    def __init__(self, path: Path, whole: Path, why: str) -> None:
        self.removed = "it" if whole == path else str(whole)
        super().__init__(f"{path} is broken: {why}", _RULE, f"remove {self.removed}, and run again")


def check(jobs: Sequence[Job]) -> None:
    """No record of these jobs, nor of their first models, is broken.

    Raises:
        InputError: some are; the message names them all, or the first of many, with what to remove.
    """
    firsts = {job.first.place: job.first for job in jobs}
    reads = [partial(first_run, first) for first in firsts.values()]
    broken = {}  # by its words: each run of a first model that is broken tells of that one
    for read in [*reads, *(partial(recorded, job) for job in jobs)]:
        try:
            read()
        except _BrokenError as error:
            broken[error.what] = error
    if len(broken) == 1:
        raise next(iter(broken.values()))
    if broken:
        raise _all_of(list(broken.values()))


def _all_of(broken: Sequence[_BrokenError]) -> InputError:
    told = [f"{error.what} (remove {error.removed})" for error in broken[:MOST_NAMED]]
    if len(broken) > MOST_NAMED:
        told.append(f"and {len(broken) - MOST_NAMED} more")
    what = f"{len(broken)} records are broken: {'; '.join(told)}"
    return InputError(what, _RULE, "remove them, and run again")


def first_run(first: First) -> Run | None:
    """A run of the first model's stage alone; None while there is no whole first model.

    Raises:
        InputError: its record is broken; the message says what to remove.
    """
    try:
        return _read(first.place / "stage.json", first.place)
    except FileNotFoundError:
        return None


def first_stage(first: First) -> Stage | None:
    """The first model's stage; None while there is no whole first model. Raises: as `first_run`."""
    run = first_run(first)
    return None if run is None else run.stages[0]


def write_first(first: First, stage: Stage, digest: str) -> None:
    """The first model is whole: its stage is on disk, with its checkpoint's digest."""
    run = Run("", first.seed, first.stream.span.first, (stage,), first_digest=digest)
    write_text(first.place / "stage.json", run.to_json())


def recorded(job: Job) -> Run | None:
    """The run as far as it came, under the names it goes by now; None where it has no stage, began
    with another first model than the one that lies here, or can't go on: its state is gone.

    Raises:
        InputError: the record is broken, or another run's; the message says what to remove.
    """
    path = _path(job)
    try:
        run = _read(path, path)
    except FileNotFoundError:
        return None
    if (why := _foreign(job, run)) is not None:
        raise _BrokenError(path, path, why)
    first = first_run(job.first)
    if first is not None and first.first_digest != run.first_digest:
        return None
    if not _is_finished(job, run) and len(run.stages) > 1 and not state(job, run).is_dir():
        return None
    return replace(run, choice=dict(job.choice))


def finished(job: Job) -> Run | None:
    """The run, if it needs no more work. Raises: as `recorded`."""
    run = recorded(job)
    return run if run is not None and _is_finished(job, run) else None


def _is_finished(job: Job, run: Run) -> bool:
    return len(run.stages) > len(job.stream.span.then) or bool(run.failure)


def write(job: Job, run: Run) -> None:
    """The record is on disk; a finished run keeps nothing else, an unfinished one no state but that
    of its last stage."""
    job.place.parent.mkdir(parents=True, exist_ok=True)
    write_text(_path(job), run.to_json())
    if finished(job):
        tidy(job)
        return
    for old in job.place.glob(f"{STATE}-*"):
        if old != state(job, run):
            shutil.rmtree(old, ignore_errors=True)


def tidy(job: Job) -> None:
    """Nothing but its record is left of a finished job; also where its worker was killed before it
    could see to that."""
    shutil.rmtree(job.place, ignore_errors=True)


def state(job: Job, run: Run) -> Path:
    """The folder of the state after the run's last stage."""
    return job.place / f"{STATE}-{len(run.stages) - 1}"


def new_state(job: Job, run: Run) -> Path:
    """An empty folder for the state after the run's last stage; `keep_state` puts it in place."""
    folder = job.place / f".{state(job, run).name}.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def keep_state(folder: Path, job: Job, run: Run) -> None:
    """What `new_state` gave stands where `state` says."""
    target = state(job, run)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)


def _read(path: Path, whole: Path) -> Run:
    """The record at `path`, a part of `whole`, which has to go if it is broken."""
    try:
        found = Run.from_json(path.read_text("utf-8"))
    except ValueError as error:
        raise _BrokenError(path, whole, str(error)) from error
    if not found.stages:
        raise _BrokenError(path, whole, "it has no stage")
    return found


def _foreign(job: Job, run: Run) -> str | None:
    """What in a record that can be read is not of this job; None: nothing."""
    span = job.stream.span
    if (run.arm, run.seed) != (job.arm.name, job.seed):
        return f"it is of {run.arm}, seed {run.seed}"
    if run.learnt_first != span.first:
        return f"its first model learnt {', '.join(run.learnt_first)}"
    stages = run.stages
    expected = (span.first[-1], *span.then)
    if tuple(stage.period for stage in stages) != expected[: len(stages)]:
        return "its updates are not the stream's"
    for stage in stages:
        if stage.scores.keys() != job.stream.data.keys():
            return f"{stage.period} is not scored on every period of the stream"
    return None


def _path(job: Job) -> Path:
    return job.place.with_name(f"{job.place.name}.json")
