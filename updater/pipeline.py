"""The story: an update from a closed period to a released version, step by named step.

`update`, `scratch`, `adopt` and `compress` run the steps in one process; the Airflow DAG calls
`run_step` for each of them by `updater step NAME`. A finished step is a record in the ledger:
running it again returns that record, so a killed command goes on where it was, and a finished one
changes nothing.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rehearsal.scored import DRAWS
from store.errors import StoreError, UnreachableError
from store.ledger import Update
from updater import cost, crowded, objections, release, training_core, typed, versions, whole
from updater.config import deciding
from updater.errors import InputError
from updater.opening import open_compression, open_first, open_update
from updater.standing import abandoned, promotion
from updater.step_titles import title
from updater.steps import evaluate, gate, importance, rehearse, train
from updater.steps import release as release_step
from updater.steps.publish import publish_decision
from updater.steps.trainings import architecture
from updater.workspace import Workspace

log = logging.getLogger("updater")

STEPS = {
    "rehearse": rehearse.run,
    "importance": importance.run,
    "train": train.run,
    "evaluate": evaluate.run,
    "gate": gate.run,
    "release": release_step.run,
}
WITH_MODEL = ("importance", "train", "evaluate")
"""Steps that import torch; so does rehearse for the policies by which the base is asked."""
ORDER = {
    "update": tuple(STEPS),
    "scratch": ("train", "evaluate", "gate", "release"),
    "adopt": ("train", "evaluate", "gate", "release"),
    "compress": ("train", "evaluate", "gate", "release"),
}


def update(workspace: Workspace, period: str, *, approve: bool = False) -> Update:
    """`period` has been learnt, judged and, where the gate allows, released.

    An unfinished update of the same period, base and configuration goes on; a finished one is
    returned as it was.

    Raises:
        InputError: nothing is deployed, an unknown or already learnt period, bad source data.
        UpdateError, StoreError: a step failed; what was finished is kept.
    """
    opened = _finish(workspace, open_update(workspace, period, trains_here=True), approve=approve)
    if approve:
        _approve(workspace, opened)
    return opened


def _approve(workspace: Workspace, opened: Update) -> None:
    """What the gate accepted before, and waits for a person since, is promoted."""
    verdict = workspace.ledger.verdict(opened.id)
    waits = opened.id in release.awaiting_approval(workspace.ledger)
    if waits and verdict is not None and verdict.verdict == "accepted":
        release.approve(
            workspace.ledger,
            workspace.aliases,
            opened.id,
            actor=workspace.actor,
            reason="accepted by the gate; approved by --yes",
            check=partial(whole.check, workspace.checkpoints),
        )
        publish_decision(workspace, opened)


def scratch(workspace: Workspace, periods: Sequence[str], *, deploy: bool) -> Update:
    """A new checkpoint of the configured architecture has learnt `periods` from random weights.

    Raises: as `update`.
    """
    from updater.nemotron.presets import config_fields
    from updater.nemotron.validate import check_length

    model, shape = workspace.settings.model, architecture(workspace)
    fields = config_fields(shape, model.vocabulary_size)
    check_length(fields, model.max_length_tokens, where=shape)
    if model.tokenizer and not (workspace.root / model.tokenizer / "tokenizer.json").is_file():
        raise InputError(
            f"model.tokenizer = {model.tokenizer!r}",
            "it must be a folder with a tokenizer.json",
            "name one, or leave it out and one is trained",
        )
    return _finish(workspace, open_first(workspace, "scratch", periods, {"deploy": deploy}))


def adopt(workspace: Workspace, checkpoint: str, periods: Sequence[str]) -> Update:
    """The checkpoint folder is a version that knows `periods`, scored on them and deployed.

    Raises: as `update`; InputError: the folder is no sound checkpoint.
    """
    from updater.nemotron.validate import check, check_length

    folder = Path(checkpoint).expanduser().resolve()
    longest = workspace.settings.model.max_length_tokens
    check_length(check(folder).config, longest, where=str(folder / "config.json"))
    arguments = {"deploy": True, "checkpoint": str(folder)}
    return _finish(workspace, open_first(workspace, "adopt", periods, arguments))


def compress(workspace: Workspace, version: str, *, approve: bool = False) -> Update:
    """A version that is smaller than `version` is judged on every period that it has learnt.

    A person deploys it, or, where the gate accepts it, `approve`.

    Raises:
        InputError: as `updater.opening.open_compression`, or nothing of it can go.
        UpdateError, StoreError: a step failed; what was finished is kept.
    """
    opened = open_compression(workspace, version, approve=approve)
    opened = _finish(workspace, opened, approve=approve)
    if approve:
        _approve(workspace, opened)
    return opened


def run_step(
    workspace: Workspace,
    name: str,
    update_id: str,
    *,
    mix_versions: bool = False,
    **options: bool,
) -> dict[str, Any]:
    """Step `name` of the update is finished; its recorded result is returned.

    Where another version of updater has opened the update, the result says which ran the step.

    Raises:
        InputError: no such step, a step before it is not finished, the update was abandoned, or was
            opened by another configuration, or without `mix_versions` by too different an updater;
            or the step works with a model, and there is no torch here.
    """
    opened = workspace.ledger.update(update_id)
    order = ORDER[opened.kind]
    if name not in order:
        raise InputError(
            f"step {name!r}", f"{opened.kind} {update_id} has {', '.join(order)}", "name one"
        )
    done = workspace.ledger.step(update_id, name)
    if done is not None and done.state == "finished":
        return done.result
    _check_standing(workspace, opened)
    _check_turn(workspace, opened, name)
    shown = title(opened.kind, name)
    other = versions.differing(update_id, opened.config.get("updater_version"), mix=mix_versions)
    if other:
        log.warning(
            "%s was opened by updater %s; %s runs by %s", update_id, other, shown, versions.HERE
        )
    _check_settings(workspace, opened, is_other=bool(other))
    if name in WITH_MODEL or (name == "rehearse" and workspace.settings.rehearsal.policy in DRAWS):
        training_core.check(f"step {name} of {update_id}")
        crowded.warn()
    log.info("%s: %s", update_id, shown)
    workspace.ledger.start_step(update_id, name)
    started = time.monotonic()
    try:
        result = STEPS[name](workspace, opened, **options)
    except (Exception, KeyboardInterrupt) as error:
        _say_it_stopped(workspace, opened, error)
        raise
    result |= cost.place(name, result, workspace.settings.training)
    seconds = time.monotonic() - started
    if other:
        result = {**result, "updater_version": versions.HERE}
    workspace.ledger.finish_step(update_id, name, result, seconds)
    log.info("%s: %s took %.1f s", update_id, shown, seconds)
    return result


def check_step(workspace: Workspace, name: str, update_id: str) -> None:
    """Step `name` of the update is what comes next, by the settings that there are now.

    Raises:
        InputError: as `run_step`, or it is finished.
    """
    opened = workspace.ledger.update(update_id)
    done = workspace.ledger.step(update_id, name)
    if done is not None and done.state == "finished":
        raise InputError(f"step {name} of {update_id} is finished", "it runs once", "go on")
    _check_standing(workspace, opened)
    _check_turn(workspace, opened, name)
    other = versions.differing(update_id, opened.config.get("updater_version"), mix=False)
    _check_settings(workspace, opened, is_other=bool(other))


def _say_it_stopped(workspace: Workspace, opened: Update, error: BaseException) -> None:
    """The update's MLflow run, which train opens, no longer looks as if it were running."""
    if isinstance(error, UnreachableError) or workspace.ledger.step(opened.id, "train") is None:
        return
    try:
        workspace.registry.stop_run(
            opened.id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        )
    except StoreError as silent:
        log.warning("MLflow still shows %s as running: %s", opened.id, silent)


def _finish(workspace: Workspace, opened: Update, *, approve: bool = False) -> Update:
    for name in ORDER[opened.kind]:
        run_step(workspace, name, opened.id, **({"approve": approve} if name == "release" else {}))
    return workspace.ledger.update(opened.id)


def _check_standing(workspace: Workspace, opened: Update) -> None:
    """Nobody has abandoned it, and what it began at is still deployed."""
    event = abandoned(workspace.ledger, opened.id)
    if event is not None:
        raise InputError(
            f"update {opened.id} was abandoned by {event.actor} ({event.reason})",
            "what was abandoned does not go on",
            f"begin another with `{typed.command(opened)}`",
        )
    if promotion(workspace.ledger, opened) is None:
        objections.check_not_superseded(opened, release.deployed(workspace.ledger))


def _check_turn(workspace: Workspace, opened: Update, name: str) -> None:
    """All steps before `name` are finished."""
    order = ORDER[opened.kind]
    for before in order[: order.index(name)]:
        earlier = workspace.ledger.step(opened.id, before)
        if earlier is None or earlier.state != "finished":
            raise InputError(
                f"step {name} of {opened.id} can't run yet",
                f"step {before} comes before it",
                f"run `updater step {before} --update {opened.id}`",
            )


def _check_settings(workspace: Workspace, opened: Update, *, is_other: bool) -> None:
    """All steps of an update run by the settings that it was opened with. Where another version
    opened it, what that one did not have is no difference."""
    now, before = (deciding(recorded) for recorded in (workspace.settings.as_dict(), opened.config))
    changed = [
        f"{section}.{key}"
        for section in workspace.settings.as_dict()
        for key in dict.fromkeys((*now.get(section, {}), *before.get(section, {})))
        if before.get(section, {}).get(key) != now.get(section, {}).get(key)
        and not (is_other and key not in before.get(section, {}))
    ]
    if changed:
        another = f"put it back, or begin another with `{typed.command(opened)}`"
        as_opened = f"put it back; of [compression] it was opened by `{typed.command(opened)}`"
        raise InputError(
            f"update {opened.id} was opened with another configuration: {', '.join(changed)}",
            "all steps of an update run by the same",
            as_opened if opened.kind == "compress" else another,
        )
