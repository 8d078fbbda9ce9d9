"""The story: an update from a closed period to a released version, step by named step.

`update`, `scratch` and `adopt` run the steps in one process; the Airflow DAG calls `run_step` for
each of them by `updater step NAME`. A finished step is a record in the ledger: running it again
returns that record, so a killed command goes on where it was, and a finished one changes nothing.
"""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from store.errors import StoreError, UnreachableError
from store.ledger import DatasetVersion, Update
from updater import config, release
from updater.errors import InputError
from updater.standing import lineage
from updater.steps import evaluate, gate, importance, ingest, rehearse, train
from updater.steps import release as release_step
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
ORDER = {
    "update": tuple(STEPS),
    "scratch": ("train", "evaluate", "gate", "release"),
    "adopt": ("train", "evaluate", "gate", "release"),
}


def update(workspace: Workspace, period: str, *, approve: bool = False) -> Update:
    """`period` has been learnt, judged and, where the gate allows, released.

    An unfinished update of the same period, base and configuration goes on; a finished one is
    returned as it was.

    Raises:
        InputError: nothing is deployed, an unknown or already learnt period, bad source data.
        UpdateError, StoreError: a step failed; what was finished is kept.
    """
    opened = _finish(workspace, open_update(workspace, period), approve=approve)
    if approve:
        _approve(workspace, opened)
    return opened


def _approve(workspace: Workspace, opened: Update) -> None:
    """What the gate accepted before, and waits for a person since, is promoted."""
    verdict = workspace.ledger.verdict(opened.id)
    waits = opened.id in release.awaiting_approval(workspace.ledger)
    if waits and verdict is not None and verdict.verdict == "accepted" and opened.candidate:
        release.promote(
            workspace.ledger,
            workspace.aliases,
            opened.candidate,
            actor=workspace.actor,
            reason="accepted by the gate; approved by --yes",
            update=opened.id,
        )


def scratch(workspace: Workspace, periods: Sequence[str], *, deploy: bool) -> Update:
    """A new checkpoint of the configured architecture has learnt `periods` from random weights.

    Raises: as `update`.
    """
    from updater.nemotron.presets import config_fields

    model = workspace.settings.model
    config_fields(train.architecture(workspace), model.vocabulary_size)
    if model.tokenizer and not (workspace.root / model.tokenizer / "tokenizer.json").is_file():
        raise InputError(
            f"model.tokenizer = {model.tokenizer!r}",
            "it must be a folder with a tokenizer.json",
            "name one, or leave it out and one is trained",
        )
    return _first(workspace, "scratch", periods, {"deploy": deploy})


def adopt(workspace: Workspace, checkpoint: str, periods: Sequence[str]) -> Update:
    """The checkpoint folder is a version that knows `periods`, scored on them and deployed.

    Raises: as `update`; InputError: the folder is no sound checkpoint.
    """
    from pathlib import Path

    from updater.nemotron.checkpoint import check

    folder = Path(checkpoint).expanduser().resolve()
    check(folder)
    return _first(workspace, "adopt", periods, {"deploy": True, "checkpoint": str(folder)})


def open_update(workspace: Workspace, period: str) -> Update:
    """The update of `period` on the deployed version: found where it is known, else opened.

    Raises: as `update`.
    """
    workspace.periods.check(period)
    _check_devices(workspace)
    base = release.deployed(workspace.ledger.events())
    known = _known(workspace, "update", period, {})
    if known is not None:
        return known
    if base is None:
        raise InputError(
            "nothing is deployed yet",
            "an update starts at the deployed version",
            "make a first one with `updater scratch --periods P... --deploy` or "
            "`updater adopt CHECKPOINT --periods P...`",
        )
    started = time.monotonic()
    dataset = _with_holdout(ingest.version_period(workspace, period))
    learnt = workspace.ledger.model_version(base).dataset_versions
    if learnt.get(period) == dataset.id:
        raise InputError(
            f"period {period} is already learnt by the deployed version {base}, "
            "and its data has not changed",
            "an update learns a new period or new data of an old one",
            "see `updater due` for what is new, or roll back first",
        )
    opened = _open(workspace, "update", {period: dataset.id}, {}, base=base)
    _record_ingest(workspace, opened, time.monotonic() - started)
    return opened


def run_step(workspace: Workspace, name: str, update_id: str, **options: bool) -> dict[str, Any]:
    """Step `name` of the update is finished; its recorded result is returned.

    Raises:
        InputError: no such step, or a step before it is not finished.
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
    for before in order[: order.index(name)]:
        earlier = workspace.ledger.step(update_id, before)
        if earlier is None or earlier.state != "finished":
            raise InputError(
                f"step {name} of {update_id} can't run yet",
                f"step {before} comes before it",
                f"run `updater step {before} --update {update_id}`",
            )
    _check_settings(workspace, opened)
    log.info("%s: %s", update_id, name)
    workspace.ledger.start_step(update_id, name)
    started = time.monotonic()
    try:
        result = STEPS[name](workspace, opened, **options)
    except (Exception, KeyboardInterrupt) as error:
        _say_it_stopped(workspace, opened, error)
        raise
    seconds = time.monotonic() - started
    workspace.ledger.finish_step(update_id, name, result, seconds)
    log.info("%s: %s took %.1f s", update_id, name, seconds)
    return result


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


def _first(
    workspace: Workspace, kind: str, periods: Sequence[str], arguments: dict[str, Any]
) -> Update:
    """A version without a base, by `scratch` or `adopt`."""
    periods = workspace.periods.expand(periods)
    _check_devices(workspace)
    arguments = {"periods": periods, **arguments}
    opened = _known(workspace, kind, periods[-1], arguments)
    if opened is None:
        deployed = release.deployed(workspace.ledger.events())
        if arguments["deploy"] and deployed is not None:
            raise InputError(
                f"version {deployed} is deployed already",
                f"{kind} may only deploy the first version of a workspace",
                "leave out --deploy, compare, then `updater promote V --reason TEXT --force`"
                if kind == "scratch"
                else "make another workspace with `updater init DIR`",
            )
        started = time.monotonic()
        versions = [_with_holdout(ingest.version_period(workspace, p)) for p in periods]
        datasets = {version.period: version.id for version in versions}
        opened = _open(workspace, kind, datasets, arguments, base=None)
        _record_ingest(workspace, opened, time.monotonic() - started)
    return _finish(workspace, opened)


def _known(
    workspace: Workspace, kind: str, period: str, arguments: dict[str, Any]
) -> Update | None:
    """The newest update with the same arguments and configuration that still stands.

    It stands while its base is deployed, or its candidate is or was on the way to what is (run
    twice is run once), and no newer data of the period has been versioned since.
    """
    ledger = workspace.ledger
    wanted = _config_digest(workspace, arguments)
    deployed = release.deployed(ledger.events())
    newest = {d.period: d.id for d in ledger.dataset_versions()}
    for update in reversed(ledger.updates(period=period)):
        same = (update.kind, update.config_digest) == (kind, wanted)
        if not same or any(newest[p] != d for p, d in update.config["datasets"].items()):
            continue
        if kind != "update" or deployed == update.base:
            return update
        if update.candidate in lineage(ledger, deployed):
            return update
    return None


def _check_devices(workspace: Workspace) -> None:
    """Before any work: what training would refuse after hours of it."""
    devices = workspace.settings.training.devices
    if devices != 1:
        raise InputError(
            f"training.devices = {devices}",
            "training runs on one device in this release",
            "set training.devices = 1",
        )


def _check_settings(workspace: Workspace, opened: Update) -> None:
    """All steps of an update run by the settings that it was opened with."""
    now: dict[str, dict[str, Any]] = json.loads(json.dumps(workspace.settings.as_dict()))
    changed = [
        f"{section}.{key}"
        for section, values in now.items()
        for key, value in values.items()
        if opened.config.get(section, {}).get(key) != value
    ]
    if changed:
        raise InputError(
            f"update {opened.id} was opened with another configuration: {', '.join(changed)}",
            "all steps of an update run by the same",
            f"put it back, or begin another update with `updater update {opened.period}`",
        )


def _with_holdout(version: DatasetVersion) -> DatasetVersion:
    """The dataset version, which has examples to judge by."""
    if version.num_holdout == 0:
        raise InputError(
            f"period {version.period} has no holdout examples ({version.id})",
            "a model is judged on a period's holdout",
            "see periods.holdout_splits and holdout_fraction",
        )
    return version


def _open(
    workspace: Workspace,
    kind: str,
    datasets: dict[str, str],
    arguments: dict[str, Any],
    *,
    base: str | None,
) -> Update:
    """The update is in the ledger, with the datasets that it learns: it can be finished now."""
    *_, (period, dataset_version) = datasets.items()
    digest = _config_digest(workspace, arguments)
    identity = json.dumps([kind, datasets, base, digest])
    return workspace.ledger.open_update(
        Update(
            id=f"{period}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}",
            kind=kind,
            period=period,
            base=base,
            dataset_version=dataset_version,
            config={
                **workspace.settings.as_dict(),
                "arguments": arguments,
                "datasets": datasets,
            },
            config_digest=digest,
            candidate=None,
            created_at=datetime.now(UTC),
        )
    )


def _config_digest(workspace: Workspace, arguments: dict[str, Any]) -> str:
    """One digest for what was configured and what was asked for on the command line."""
    whole = json.dumps([config.digest(workspace.settings), arguments], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def _record_ingest(workspace: Workspace, opened: Update, seconds: float) -> None:
    """The ledger knows how long ingest took; what it made stands in the update itself."""
    done = workspace.ledger.step(opened.id, "ingest")
    if done is None or done.state != "finished":
        workspace.ledger.start_step(opened.id, "ingest")
        result = {"datasets": opened.config["datasets"]}
        workspace.ledger.finish_step(opened.id, "ingest", result, seconds)
