"""One arm with one seed over its stream, from the last finished stage on.

After each stage the record and the state that the next one needs are on disk, the state first and
the record last, so that a run that is killed loses the stage it was in and no more. Called by
`updater.study.pool`'s workers.
"""

import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from updater.errors import UpdateError
from updater.study import records
from updater.study.fine_tuned import Cost
from updater.study.first import answers, counted
from updater.study.gated import Gate, gate_for
from updater.study.job import Job
from updater.study.measures import served
from updater.study.results import Run, Stage
from updater.study.students import STUDENTS, Student

_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kB on Linux


def run(job: Job, tell: Callable[[], None]) -> Run:
    """The arm has learnt the whole stream, or its run says why it could not: it diverged.

    `tell` is called after each stage that is done now. The first model must be there.

    Raises:
        InputError: the arm asks for what this machine can't do.
        OSError: the disk refuses.
    """
    known = records.recorded(job)
    done = known or begun(job)
    student = _after(job, done)
    gate = gate_for(job, student.model, _saved(job, done))
    for period in job.stream.span.then[len(done.stages) - 1 :]:
        try:
            cost = student.learn(period, served(done).stages)
        except UpdateError as error:
            done = replace(done, failure=f"{period}: {error}")
            records.write(job, done)
            return done
        stage = _stage(job, student, gate, period, cost, done)
        if not stage.deployed:
            student = _after(job, done)
        done = replace(
            done,
            stages=(*done.stages, stage),
            peak_memory_bytes=max(done.peak_memory_bytes, peak_memory_bytes()),
        )
        _keep(job, student, gate, done)
        tell()
    if not job.stream.span.then:
        records.write(job, done)
    return done


def begun(job: Job) -> Run:
    """The run as the first model begins it."""
    first = records.first_run(job.first)
    assert first is not None, "the first model is made before any arm starts"
    return replace(first, arm=job.arm.name, choice=dict(job.choice))


def _after(job: Job, done: Run) -> Student:
    """The arm's model as it was after the last stage of `done`: the first one, or from the disk."""
    student = STUDENTS[job.arm.kind](job)
    if (saved := _saved(job, done)) is not None:
        student.restore(saved)
    return student


def _saved(job: Job, done: Run) -> Path | None:
    """The folder of what was kept after the last stage; the first model alone keeps nothing."""
    return records.state(job, done) if len(done.stages) > 1 else None


def _stage(
    job: Job, student: Student, gate: Gate, period: str, cost: Cost | None, done: Run
) -> Stage:
    """The record of this update; a model that did not change is neither scored nor judged again."""
    if cost is None:
        return Stage(period, served(done).stages[-1].scores)
    found = answers(student.model, job.stream, job.settings)
    return gate.judged(Stage(period, counted(found), *cost), found)


def _keep(job: Job, student: Student, gate: Gate, done: Run) -> None:
    if len(done.stages) <= len(job.stream.span.then):
        staged = records.new_state(job, done)
        student.save(staged)
        gate.save(staged)
        records.keep_state(staged, job, done)
    records.write(job, done)


def peak_memory_bytes() -> int:
    """Of this process alone. What getrusage says on Linux begins with the peak of the parent that
    spawned it (execve(2) keeps ru_maxrss); VmHWM begins anew."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
