"""What the train step searches first, where `[training.search]` asks for it: strength, learning
rate and rehearsal fraction, by trainings judged on train examples that they have not learnt.

Not how values are chosen and judged: `updater.trials` does that. `search.json` in the update's
folder is replaced after every trial, so that a killed search goes on; its content becomes part of
the train step's result, from which later updates start.
"""

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from store.ledger import Update
from updater import trials
from updater.errors import CrashError, UpdateError
from updater.files import read_json, write_json, write_text
from updater.progress import Progress
from updater.settings import Settings
from updater.settings.regularizing import METHODS
from updater.steps.holdback import HeldBack, Tables, hold_back, lesson_of
from updater.steps.rehearse import manifest_of
from updater.steps.start import start_folder
from updater.steps.student import Student, answers
from updater.stopwatch import Stopwatch
from updater.trials import Trial
from updater.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("updater")


class Teach(Protocol):
    """The base has learnt the tables by the workspace's settings; a killed training goes on from
    its state in the folder.

    Raises:
        UpdateError: it diverged.
    """

    def __call__(self, workspace: Workspace, tables: Tables, folder: Path) -> Student | Path: ...


def tuned(
    workspace: Workspace, update: Update, new: "pa.Table", teach: Teach
) -> tuple[Workspace, dict[str, Any]]:
    """The workspace by the settings of the trial that won, and what the train step records of the
    search: nothing where nothing is searched. Where every trial diverged, it is as configured.

    Args:
        new: the update's new train examples.
        teach: how a trial is trained.

    Raises:
        InputError: Optuna is missing.
    """
    search = workspace.settings.training.search
    if not search.ranges:
        return workspace, {}
    trials.check(search.trials)
    record = _Search(workspace, update, teach).finished(new)
    won = record["winner"]
    if won is None:
        log.warning("%s: no trial came to an end; it is trained as configured", update.id)
    else:
        log.info("%s: the search chose %s", update.id, _words(won["values"]))
    best = workspace.tuned(workspace.settings.tuned(won["values"] if won else {}))
    found: dict[str, Any] = {"search": record}
    if "rehearsal_fraction" in search.ranges:
        found["manifest"] = manifest_of(best, update).to_json()
        write_text(workspace.run_folder(update.id) / "manifest.json", found["manifest"])
    return best, found


class _Search:
    """The search of one update. All that it knows is in the record, and the record in a file."""

    def __init__(self, workspace: Workspace, update: Update, teach: Teach) -> None:
        self._workspace, self._update, self._teach = workspace, update, teach
        self._folder = workspace.run_folder(update.id)
        self._file = self._folder / "search.json"

    def finished(self, new: "pa.Table") -> dict[str, Any]:
        """The record of all trials: those that were there, and the others, run now."""
        record: dict[str, Any] = read_json(self._file) if self._file.exists() else {}
        if "winner" in record:
            return record
        held = hold_back(self._workspace, self._update, new)
        record = record or self._begun(held)
        # Of a single new example none can be held back, and nothing be judged.
        num_trials = self._workspace.settings.training.search.trials if held.new.num_rows else 0
        tried, shown = len(record["trials"]), self._workspace.progress
        with Progress("search", num_trials, done=tried, unit="trials", shown=shown) as progress:
            for number in range(tried, num_trials):
                self._add_trial(number, record, held)
                progress.update(1)
        won = trials.winner(_trials(record))
        record["winner"] = None if won is None else won.as_dict()
        write_json(self._file, record)
        return record

    def _begun(self, held: HeldBack) -> dict[str, Any]:
        """A record without trials: what they are measured by, and what earlier updates tried."""
        watch = Stopwatch()
        base_past = None
        if held.past is not None:
            assert self._update.base is not None, "only updates are searched for"
            base = start_folder(self._workspace, self._update.base)
            base_past = _accuracies(self._workspace, base, {"past": held.past}, watch)["past"]
        ranges = self._workspace.settings.training.search.ranges
        return {
            "ranges": {name: list(limits) for name, limits in ranges.items()},
            "learner": _learner(self._workspace.settings),
            "num_new": held.new.num_rows,
            "num_past": 0 if held.past is None else held.past.num_rows,
            "base_past": base_past,
            "earlier": earlier_trials(self._workspace),
            "trials": [],
            "compute_seconds": watch.seconds,
        }

    def _add_trial(self, number: int, record: dict[str, Any], held: HeldBack) -> None:
        settings = self._workspace.settings
        values = trials.next_values(
            record["ranges"],
            _trials(record),
            configured=settings.searched(),
            earlier=[_trials(one) for one in record["earlier"]],
            seed=settings.training.seed,
        )
        folder = self._folder / "training" / f"trial-{number}"
        watch = Stopwatch()
        with watch:
            trial = self._tried(values, held, record["base_past"], folder)
        record["trials"].append(trial.as_dict())
        record["compute_seconds"] += watch.seconds
        write_json(self._file, record)
        shutil.rmtree(folder, ignore_errors=True)
        of = f"{number + 1} of {settings.training.search.trials}"
        log.info("%s: trial %s, %s: %s", self._update.id, of, _words(values), _judged(trial))

    def _tried(
        self, values: Mapping[str, float], held: HeldBack, base_past: float | None, folder: Path
    ) -> Trial:
        trying = self._workspace.tuned(_short(self._workspace.settings.tuned(values)))
        try:
            student = self._teach(trying, lesson_of(trying, self._update, held), folder)
        except CrashError:
            raise
        except UpdateError as error:
            return Trial(values, error=str(error))
        asked = {"new": held.new} | ({} if held.past is None else {"past": held.past})
        right = _accuracies(trying, student, asked, Stopwatch())
        new, past = right["new"], right.get("past")
        margin = trying.settings.gate.margin_fraction
        return Trial(values, new, past, trials.score(new, past, base_past=base_past, margin=margin))


def _short(settings: Settings) -> Settings:
    """A trial's part of the epochs, at least one."""
    training = settings.training.beside_training
    epochs = max(1, round(training.epochs * training.search.epochs_fraction))
    return dataclasses.replace(settings, training=dataclasses.replace(training, epochs=epochs))


def _accuracies(
    workspace: Workspace, who: Student | Path, tables: "Mapping[str, pa.Table]", watch: Stopwatch
) -> dict[str, float]:
    """The part of each table's examples that is answered right, 0..1."""
    said = answers(workspace, who, tables, watch)
    return {name: sum(t["correct"].to_pylist()) / t.num_rows for name, t in said.items()}


def earlier_trials(workspace: Workspace) -> list[dict[str, Any]]:
    """The trials of every update that has searched with such a learner, oldest first: what was a
    good strength of EWC says nothing of another method's."""
    learner = _learner(workspace.settings)
    steps = [workspace.ledger.step(u.id, "train") for u in workspace.ledger.updates()]
    return [
        {"update": step.update, "trials": step.result["search"]["trials"]}
        for step in steps
        if step is not None
        and step.state == "finished"
        and step.result.get("search", {}).get("learner") == learner
    ]


def _learner(settings: Settings) -> dict[str, Any]:
    """What the searched values are of. A strength that is right beside rehearsal holds nothing
    without it."""
    regularizer = settings.regularizer
    heeds = METHODS[regularizer.method].heeds
    return {
        "method": regularizer.method,
        "estimator": regularizer.estimator,
        "terms": regularizer.terms,
        "scale": regularizer.scale,
        "damping": regularizer.damping if "damping" in heeds else None,
        "rehearses": settings.rehearsal.policy != "none",
        "adapt": settings.training.adapt,
    }


def _trials(record: Mapping[str, Any]) -> list[Trial]:
    return [Trial(**one) for one in record["trials"]]


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _judged(trial: Trial) -> str:
    if trial.score is None:
        return trial.error
    past = "" if trial.past is None else f", past {trial.past:.3f}"
    return f"new {trial.new:.3f}{past}, score {trial.score:.3f}"
