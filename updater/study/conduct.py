"""A whole study: data, first models, sweeps, arms; resumed where it was.

Trains nothing itself (the workers do) and draws nothing. Called by `updater study`.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from updater import training_core
from updater.errors import InputError, UpdateError
from updater.nemotron.presets import config_fields
from updater.nemotron.sparsity import staying
from updater.progress import Progress
from updater.study import arms, file, locks, records, stream, tabulated
from updater.study.job import Job
from updater.study.jobs import Jobs
from updater.study.plan import Arm, Study
from updater.study.pool import Failed, Places, Pool, Task, Tell
from updater.study.results import Run
from updater.study.sweep import Choice, Sweep, Try
from updater.workspace import Workspace

log = logging.getLogger("updater")
FIRST = " first"
"""What `prepare` is in the place of an arm: no arm has a name that begins so."""
AGAIN = "run again, the study tries it again"


@dataclass(frozen=True)
class Conducted:
    """What came of it: the reported runs, arm by arm and seed by seed, one for each. `failed`: the
    workers that died or had an error, sweeps' among them; their runs have that as their failure, no
    record has it, and they are made when the study is run again. `folder`: where it lies. `keys`:
    of the reported runs, each a digest of what decides it. `is_part`: only some of the arms were
    asked for. `sweeps`: of the arms that swept, in their order, what they tried."""

    study: Study
    runs: tuple[Run, ...]
    failed: tuple[Failed, ...]
    folder: Path
    keys: tuple[str, ...]
    is_part: bool
    sweeps: tuple[Sweep, ...] = ()


def conduct(
    workspace: Workspace, path: Path, *, quick: bool = False, only: Sequence[str] = ()
) -> Conducted:
    """Every arm has run with every seed, those that had before are taken from their records.

    Raises:
        InputError: the file breaks a rule, and nothing was done; or a record is broken.
        UpdateError: the same study runs in another process, or its first models diverge, all of
            them.
    """
    study = file.read(path, workspace.settings, quick=quick, only=only)
    study = _with_architecture(workspace, study)
    _check_machine(study)
    with locks.at_work(workspace, study, only):
        done = _Conductor(workspace, study).conducted()
    return dataclasses.replace(done, is_part=bool(only))


def prepare(workspace: Workspace, path: Path, *, quick: bool = False) -> tuple[Failed, ...]:
    """Data and first models of the whole study are there, so that its arms can run at the same time
    (`only`); the first models whose workers failed are returned.

    Raises:
        InputError, UpdateError: as `conduct`.
    """
    study = file.read(path, workspace.settings, quick=quick)
    study = _with_architecture(workspace, study)
    _check_machine(study)
    with locks.at_work(workspace, study, only=[FIRST]):
        return _Conductor(workspace, study).prepared()


def _with_architecture(workspace: Workspace, study: Study) -> Study:
    """An architecture in the workspace is found there, and can be built."""
    model = study.settings.model
    found = workspace.root / model.architecture
    if found.is_file():
        model = dataclasses.replace(model, architecture=str(found))

    def changed(settings: Any) -> Any:
        return dataclasses.replace(settings, model=model)

    fields = config_fields(model.architecture, model.vocabulary_size)
    for arm in study.arms:
        _check_shape(arm, fields, model.architecture)
    changed_arms = tuple(dataclasses.replace(a, settings=changed(a.settings)) for a in study.arms)
    return dataclasses.replace(study, settings=changed(study.settings), arms=changed_arms)


def _check_shape(arm: Arm, fields: Mapping[str, Any], where: str) -> None:
    """The first model has what the arm takes away of it, and enough of that stays."""
    given = arm.settings.compression
    if arm.way is None or not arm.way.what or given.remove == "weights":
        return
    try:
        staying(
            fields,
            given.remove,
            given.sparsity,
            multiple_of=given.multiple_of,
            attention=given.attention,
            where=where,
        )
    except InputError as error:
        raise InputError(f"the arm {arm.name!r}: {error.what}", error.rule, error.cure) from None


def _check_machine(study: Study) -> None:
    """What no worker of this machine could train is refused before the first one starts."""
    training_core.check(f"study {study.name}")
    from updater.train.fit import check

    check(study.settings.training)
    for arm in study.arms:
        for one in arms.variants(arm):
            try:
                check(one.settings.training)
            except InputError as error:
                what = f"[arms.{arm.name}]: {error.what}"
                raise InputError(what, error.rule, error.cure) from None


class _Conductor:
    def __init__(self, workspace: Workspace, study: Study) -> None:
        self._workspace, self._study = workspace, study
        self._folder = folder = workspace.root / "studies" / study.name
        with locks.preparing(workspace, study):
            reported, validation = stream.of_workspace(workspace, study.span), None
            if study.validation and any(arm.sweep for arm in study.arms):
                whole = stream.of_workspace(workspace, study.validation.span)
                validation = stream.held_back(whole, study.validation, folder / "held-back")
        self._jobs = Jobs(study, folder, reported, validation)
        self._failed: list[Failed] = []
        # Key of a first model -> why there is none: its worker failed, or its training diverged.
        self._unmade: dict[str, Failed | str] = {}

    def conducted(self) -> Conducted:
        """The story."""
        tries = {arm.name: self._jobs.tries(arm) for arm in self._study.arms if arm.sweep}
        tried = [job for of_arm in tries.values() for _, jobs in of_arm for job in jobs]
        planned = [job for arm in self._study.arms for job in self._jobs.reported(arm)]
        possible = [job for arm in self._study.arms for job in self._jobs.possible(arm)]
        records.check([*tried, *possible])  # so that none is first found when a sweep has run
        total = sum(job.num_units for job in [*tried, *planned])
        places = Places.found(self._study.processes, self._study.threads)
        with (
            Progress("study", total, unit="updates", shown=self._workspace.progress) as progress,
            Pool(places, progress) as pool,
        ):
            known = [job for job in planned if job.arm.name not in tries]
            self._prepare(pool, [*tried, *known])
            self._check_begun(known or tried)
            sweeps = self._sweeps(tries, self._run(pool, progress, tried))
            jobs, given_up = self._decided(sweeps)
            progress.update(_unlearnt(sweeps.values(), self._study))
            self._prepare(pool, jobs)
            self._check_begun(jobs)
            runs = self._run(pool, progress, jobs)
        whole = [*runs, *given_up]
        order = [arm.name for arm in self._study.arms]
        whole.sort(key=lambda run: (order.index(run.arm), self._study.seeds.index(run.seed)))
        return Conducted(
            study=self._study,
            runs=tuple(whole),
            failed=tuple(self._failed),
            folder=self._folder,
            keys=tuple(job.key for job in jobs),
            is_part=False,
            sweeps=tuple(sweeps.values()),
        )

    def prepared(self) -> tuple[Failed, ...]:
        """The first models that any arm may begin with are there, but those whose worker failed."""
        tried = [job for arm in self._study.arms for _, js in self._jobs.tries(arm) for job in js]
        planned = [job for arm in self._study.arms for job in self._jobs.reported(arm)]
        records.check([*tried, *planned])
        places = Places.found(self._study.processes, self._study.threads)
        with (
            Progress("study", 0, unit="updates", shown=self._workspace.progress) as progress,
            Pool(places, progress) as pool,
        ):
            self._prepare(pool, [*tried, *planned])
        self._check_begun(planned)
        return tuple(self._failed)

    def _prepare(self, pool: Pool, jobs: Sequence[Job]) -> None:
        """Every first model that an unfinished job begins with is there, or is known to fail; and
        where the records of one seed began with different first models, it is there to tell which
        of them count."""
        mixed = _with_different_firsts(jobs)
        firsts = {
            job.first.key: job.first
            for job in jobs
            if records.finished(job) is None or _start(job) in mixed
        }
        unknown = [first for key, first in firsts.items() if key not in self._unmade]
        from updater.study.first import attempt

        with locks.preparing(self._workspace, self._study):
            missing = [first for first in unknown if records.first_stage(first) is None]
            made = pool.run([Task(f.title, attempt, f) for f in missing])
        self._failed += [one for one in made if isinstance(one, Failed)]
        self._unmade |= {f.key: one for f, one in zip(missing, made, strict=True) if one}

    def _check_begun(self, jobs: Sequence[Job]) -> None:
        """Not all of these lack their first model for good. Raises: UpdateError."""
        reasons = [self._diverged(job) for job in jobs]
        if reasons and all(reasons):
            raise UpdateError(
                f"none of the study's first models can be trained; {jobs[0].first.title}:"
                f" {reasons[0]}"
            )

    def _diverged(self, job: Job) -> str:
        """Why the job can't begin, however often the study is run; "" where it can, or is known."""
        why = self._unmade.get(job.first.key, "")
        return why if isinstance(why, str) and records.finished(job) is None else ""

    def _run(self, pool: Pool, progress: Progress, jobs: Sequence[Job]) -> list[Run]:
        """Each job's run, from its record where that is finished; as far as it came where its
        worker failed."""
        results: list[Any] = [records.finished(job) for job in jobs]
        for job, known in zip(jobs, results, strict=True):
            if known is not None:
                records.tidy(job)
        todo = [n for n, known in enumerate(results) if known is None]
        begun = [known or records.recorded(job) for job, known in zip(jobs, results, strict=True)]
        num_known = sum(_units(job, one) for job, one in zip(jobs, begun, strict=True) if one)
        if num_known and todo:
            of = sum(job.num_units for job in jobs)
            log.info("it goes on: %d of %d updates are done already", num_known, of)
        progress.update(num_known)
        able = [n for n in todo if records.first_stage(jobs[n].first) is not None]
        # What learns everything anew takes longest: begun last, it would keep one core alone busy.
        able.sort(key=lambda n: not jobs[n].arm.starts_anew)
        tasks = [Task(jobs[n].title, _work(jobs[n]), jobs[n]) for n in able]
        for n, done in zip(able, pool.run(tasks), strict=True):
            results[n] = done
        for n in set(todo) - set(able):
            why = self._unmade[jobs[n].first.key]
            if isinstance(why, Failed):
                why = f"its first model could not be made: {why.reason}"
                results[n] = Failed(jobs[n].title, why)
            else:
                results[n] = _without_first(jobs[n], why)
        self._failed += [one for one in results if isinstance(one, Failed)]
        for job, one in zip(jobs, results, strict=True):
            if isinstance(one, Run):  # one that diverged comes to none of its later updates
                progress.update(job.num_units - _units(job, one))
        return [
            _unfinished(job, one.reason) if isinstance(one, Failed) else one
            for job, one in zip(jobs, results, strict=True)
        ]

    def _sweeps(
        self, tries: Mapping[str, Sequence[tuple[Choice, Sequence[Job]]]], runs: Iterable[Run]
    ) -> dict[str, Sweep]:
        """Arm -> what its sweep tried. `runs`: those of all jobs, in their order."""
        each = iter(runs)
        found = {}
        for arm, of_arm in tries.items():
            told = tuple(Try(c, tuple(itertools.islice(each, len(js)))) for c, js in of_arm)
            jobs = [job for _, of_choice in of_arm for job in of_choice]
            is_whole = all(records.finished(j) is not None or self._diverged(j) for j in jobs)
            found[arm] = Sweep(arm, told, is_whole)
        return found

    def _decided(self, sweeps: Mapping[str, Sweep]) -> tuple[list[Job], list[Run]]:
        """The jobs to report, with what the sweeps chose; and the runs of arms without a choice."""
        jobs, given_up = [], []
        for arm in self._study.arms:
            if arm.name not in sweeps:
                jobs += self._jobs.reported(arm)
                continue
            sweep = sweeps[arm.name]
            chosen = sweep.chosen
            words = "nothing" if chosen is None else tabulated.chosen(chosen.choice)
            tie = f" ({found})" if (found := tabulated.tie(sweep)) else ""
            log.info("%s: the sweep chose %s%s", arm.name, words, tie)
            if chosen is None:
                given_up += [_given_up(sweep, seed, self._study) for seed in self._study.seeds]
            else:
                jobs += self._jobs.reported(arm, chosen.choice)
        return jobs, given_up


def _work(job: Job) -> Callable[[Any, Tell], Run]:
    """What a worker is to do."""
    if job.arm.way is None:
        from updater.study.run import run

        return run
    from updater.study import compressing

    return compressing.run


def _units(job: Job, run: Run) -> int:
    """Of progress, that the run has come to: what compresses has told one, however it ended."""
    if job.arm.way is None:
        return max(len(run.stages) - 1, 0)
    return int(bool(run.stages))


def _unlearnt(sweeps: Iterable[Sweep], study: Study) -> int:
    """How many updates of the reported stream need no work any more: those of arms of which every
    choice is known to diverge."""
    without = sum(sweep.is_whole and sweep.chosen is None for sweep in sweeps)
    return without * len(study.seeds) * len(study.span.then)


def _with_different_firsts(jobs: Iterable[Job]) -> set[str]:
    """The starts of which the finished records began with more than one first model."""
    found: dict[str, set[str]] = {}
    for job in jobs:
        if (run := records.finished(job)) is not None:
            found.setdefault(_start(job), set()).add(run.first_digest)
    return {of for of, digests in found.items() if len(digests) > 1}


def _start(job: Job) -> str:
    """Equal for runs that are to begin with one first model, whatever else its training leaves."""
    return dataclasses.replace(job.first, trace="").key


def _given_up(sweep: Sweep, seed: int, study: Study) -> Run:
    why = "every value of its sweep diverged on the validation stream"
    if not all(run.stages for one in sweep.tries for run in one.runs):
        why = "a first model of the validation stream diverged, so that its sweep chooses nothing"
    if not sweep.is_whole:
        why = f"a run of its sweep has failed, so that nothing is chosen yet; {AGAIN}"
    return Run(sweep.arm, seed, study.span.first, (), failure=why)


def _without_first(job: Job, why: str) -> Run:
    """The run of which nothing is there nor will be, under these settings: no record has it."""
    why = f"its first model, which [settings] train, diverged: {why}"
    return dataclasses.replace(_begun(job), failure=why)


def _begun(job: Job) -> Run:
    """The run before its first stage."""
    return Run(job.arm.name, job.seed, job.stream.span.first, (), choice=job.choice)


def _unfinished(job: Job, why: str) -> Run:
    """The run as far as its record goes, with the reason why there is no more of it yet."""
    begun = records.recorded(job) or _begun(job)
    return dataclasses.replace(begun, failure=f"{why}; {AGAIN}")
