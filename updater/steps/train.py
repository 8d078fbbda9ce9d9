"""Step train: the candidate's checkpoint exists, is in the checkpoint store and is registered.

For an update it starts at the base; for `scratch` at random weights of the configured
architecture; `adopt` brings a finished checkpoint, and `compress` makes a smaller one of a
version. The training itself is `updater.train`'s.
"""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rehearsal import window
from store.ledger import Update
from updater.files import read_json, write_json
from updater.steps import compress, drafts, room, search, teach, traces
from updater.steps.curve import Curve
from updater.steps.holdback import Tables
from updater.steps.machine import Machine
from updater.steps.registration import log_places, register, run_of
from updater.steps.rehearse import manifest_of
from updater.steps.start import start_folder
from updater.steps.student import Student
from updater.steps.trainings import architecture, training_of
from updater.workspace import Workspace

log = logging.getLogger("updater")

if TYPE_CHECKING:
    import pyarrow as pa


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """The candidate is a model version in the ledger and in MLflow."""
    found: dict[str, Any] = {}
    if update.kind != "compress":  # of which it was asked before it was opened
        room.check(workspace, update)
    if update.kind == "update":
        new = _new_examples(workspace, update)
        workspace, found = search.tuned(workspace, update, new, partial(_teach, update))
    candidate, result = _KINDS[update.kind](workspace, update)
    if found:
        result["compute_seconds"] += found["search"]["compute_seconds"]
    if update.kind == "update" and workspace.settings.compression.is_on:
        candidate, said = _compress(workspace, update, candidate)
        result |= said
        result["compute_seconds"] += said["compression"]["seconds"]
    # What we exported is never written in place again, so it may be linked instead of copied; an
    # adopted folder is its owner's.
    digest = workspace.checkpoints.add(candidate, frozen=update.kind != "adopt")
    version = register(workspace, update, digest)
    for state in ("training", "drafting"):
        shutil.rmtree(workspace.run_folder(update.id) / state, ignore_errors=True)
    place = {"experiment": workspace.registry.experiment}  # by which addresses name it
    return {"version": version, "digest": digest, **place, **result, **found}


def _compress(workspace: Workspace, update: Update, learnt: Path) -> tuple[Path, dict[str, Any]]:
    """What the update has learnt is in the checkpoint store, and compressed."""
    assert update.base is not None, "only an update of a base is fine-tuned"
    base = workspace.ledger.model_version(update.base)
    weights = workspace.checkpoints.add(learnt, frozen=True)
    datasets = {**base.dataset_versions, **update.config["datasets"]}

    def again() -> Tables:
        return Tables(_new_examples(workspace, update), _rehearsed(workspace, update))

    return compress.compressed(workspace, update, weights, datasets, again)


def _fine_tune(workspace: Workspace, update: Update) -> tuple[Path, dict[str, Any]]:
    return _fit(workspace, update, _base(workspace, update), _rehearsed(workspace, update))


def _rehearsed(workspace: Workspace, update: Update) -> "pa.Table | None":
    manifest = manifest_of(workspace, update)
    if not manifest.choices:
        return None
    return window.load(manifest, lambda version: workspace.datasets.path(version, "train.parquet"))


def _base(workspace: Workspace, update: Update) -> Path:
    """The folder of the checkpoint that is fine-tuned."""
    assert update.base is not None, "only an update of a base is fine-tuned"
    return start_folder(workspace, update.base)


def _teach(update: Update, workspace: Workspace, tables: Tables, folder: Path) -> Student | Path:
    """A trial of the search: the base has learnt the tables by the workspace's settings."""
    from updater.train.record import Watch

    base, watch = _base(workspace, update), Watch(progress=False)
    return teach.learn(workspace, update, base, tables, watch, folder=folder).learnt


def _from_scratch(workspace: Workspace, update: Update) -> tuple[Path, dict[str, Any]]:
    from updater.nemotron import checkpoint

    settings = workspace.settings
    initial = workspace.run_folder(update.id) / "initial"
    if not initial.exists():
        examples = _new_examples(workspace, update)
        texts = (
            str(prompt) + str(completion)
            for prompt, completion in zip(
                examples["prompt"].to_pylist(), examples["completion"].to_pylist(), strict=True
            )
        )
        checkpoint.create(
            architecture(workspace),
            texts,
            initial,
            vocabulary_size=settings.model.vocabulary_size,
            tokenizer=settings.model.tokenizer,
            seed=settings.training.seed,
        )
    return _fit(workspace, update, initial, None)


def _adopted(workspace: Workspace, update: Update) -> tuple[Path, dict[str, Any]]:
    return Path(update.config["arguments"]["checkpoint"]), {"num_steps": 0, "compute_seconds": 0.0}


_KINDS = {
    "update": _fine_tune,
    "scratch": _from_scratch,
    "adopt": _adopted,
    "compress": compress.made,
}


def _fit(
    workspace: Workspace,
    update: Update,
    start: Path,
    rehearsed: "pa.Table | None",
) -> tuple[Path, dict[str, Any]]:
    from updater.launch import answer
    from updater.nemotron import checkpoint
    from updater.train.record import Watch

    folder = workspace.run_folder(update.id)
    candidate = folder / "candidate"
    result_file = folder / "fit.json"
    if candidate.exists() and result_file.exists():  # written after the whole curve was sent
        return candidate, read_json(result_file)
    new = _new_examples(workspace, update)
    progress, training = workspace.progress, training_of(workspace, update)
    tables, trace = Tables(new, rehearsed), traces.trace_of(workspace)
    every = training.checkpoint_every_steps
    run_id = run_of(workspace, update)
    log_places(workspace, update, run_id)
    machine = Machine(workspace.registry, run_id, folder, training)
    with machine, Curve(workspace.registry, run_id, folder, checkpoint_every_steps=every) as curve:
        watch = Watch(curve.add, progress)
        learnt, lesson, done = teach.learn(
            workspace, update, start, tables, watch, folder=folder / "training", trace=trace
        )
    if done.too_long:
        log.warning(
            "%s: %d examples of more than %d tokens were left out of training",
            update.id,
            len(done.too_long),
            workspace.settings.model.max_length_tokens,
        )
    if isinstance(learnt, Student):
        learnt = checkpoint.export(learnt.model, start, folder / "training" / answer.LEARNT)
    aligned: dict[str, Any] = {}
    if training.mtp == "align":  # the model in memory is let go of: this loads what is on the disk
        learnt, aligned = drafts.align(workspace, update, learnt, lesson)
    shutil.rmtree(candidate, ignore_errors=True)
    learnt.rename(candidate)
    result = {
        **traces.keep(workspace, update, candidate, done),
        **aligned,
        **machine.result(),
        "num_steps": done.num_steps,
        "num_examples": done.num_examples,
        "num_tokens": done.num_tokens,
        "num_new": new.num_rows,
        "num_rehearsed": 0 if rehearsed is None else rehearsed.num_rows,
        "num_too_long": len(done.too_long),
        "compute_seconds": done.seconds + aligned.get("mtp", {}).get("compute_seconds", 0.0),
    }
    if done.experts:
        write_json(folder / "experts.json", {"tokens": done.experts})
    write_json(result_file, result)
    return candidate, result


def _new_examples(workspace: Workspace, update: Update) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    versions = update.config["datasets"].values()
    tables = [
        pq.read_table(workspace.datasets.path(version, "train.parquet")) for version in versions
    ]
    return pa.concat_tables(tables, promote_options="default")  # an older one has no strata
