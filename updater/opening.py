"""Opening an update: found where it is known; else its data is versioned, and the ledger has it.

What makes two updates the same (period, data, base, configuration, arguments) is decided here, and
everything is checked that can be before any work. The work is `updater.pipeline`'s, which calls
this.
"""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from store.ledger import DatasetVersion, Update
from updater import beginning, config, release, training_core, trials, typed, versions
from updater.errors import InputError
from updater.standing import abandoned, lineage
from updater.steps import ingest, room
from updater.steps.start import start_at, uncompressed
from updater.steps.terms import check_recorded
from updater.workspace import Workspace

log = logging.getLogger("updater")


def open_update(
    workspace: Workspace, period: str, *, is_scheduled: bool = False, trains_here: bool = False
) -> Update:
    """The update of `period` on the deployed version: found where it is known, else opened.

    `is_scheduled`: a scheduler asks, by whose clock the period has closed. `trains_here`: this
    process goes on with all steps; else the ones that train may run on another machine.

    Raises:
        UpdateError: by the ledger's clock the scheduled period has not closed.
        InputError: nothing is deployed, an unknown, already learnt or unclosed period, the first
            of a schedule that would pass over older ones, bad source data, the deployed version's
            training has not recorded what holds the update, it is made for shorter examples or has
            no head to align, or this machine, which is to train, has no torch, or not the devices
            or the kernels that the settings ask for.
        NotFoundError: MLflow has no experiment of the workspace's name.
        StoreError: a store can't be read or written.
    """
    workspace.periods.check(period)
    base = release.deployed(workspace.ledger)
    known = _known(workspace, "update", period, {})
    if known is not None:
        return known
    if trains_here:
        training_core.check(f"the update of {period}")
    beginning.check_closed(workspace, period, is_scheduled=is_scheduled)
    trials.check(workspace.settings.training.search.trials)
    if base is None:
        raise InputError(
            "nothing is deployed yet",
            "an update starts at the deployed version",
            "make a first one with `updater scratch --periods P... --deploy` or "
            "`updater adopt CHECKPOINT --periods P...`",
        )
    learnt = workspace.ledger.model_version(base).dataset_versions
    if is_scheduled:
        beginning.check_first(workspace, period, learnt)
    check_recorded(workspace, base, period)
    digest = workspace.ledger.model_version(base).digest
    if workspace.settings.source.fields.messages:
        beginning.check_base_template(workspace, digest)
    workspace.registry.check()  # training would miss it at its end, after hours
    beginning.check_length(workspace, digest)
    start = start_at(workspace, base)
    beginning.check_start(workspace, start, base)
    beginning.check_head(workspace, start)
    if trains_here:
        room.check_means(workspace.settings.training)
    started = time.monotonic()
    dataset = _with_holdout(ingest.version_period(workspace, period))
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


def open_first(
    workspace: Workspace, kind: str, periods: Sequence[str], arguments: dict[str, Any]
) -> Update:
    """The update that makes a version without a base, by `scratch` or `adopt`: found, or opened.

    Raises:
        InputError: an unknown or unclosed period, bad source data, something is deployed already,
            a checkpoint that is broken, or there is no torch here, or no memory for it.
        NotFoundError, StoreError: as `open_update`.
    """
    periods = workspace.periods.expand(periods)
    arguments = {"periods": periods, **arguments}
    known = _known(workspace, kind, periods[-1], arguments)
    if known is not None:
        return known
    training_core.check(kind)
    for period in periods:
        workspace.periods.check_closed(period, workspace.ledger.now())
    deployed = release.deployed(workspace.ledger)
    if arguments["deploy"] and deployed is not None:
        raise InputError(
            f"version {deployed} is deployed already",
            f"{kind} may only deploy the first version of a workspace",
            "leave out --deploy, compare, then `updater promote V --reason TEXT --force`"
            if kind == "scratch"
            else "make another workspace with `updater init DIR`",
        )
    if workspace.settings.source.fields.messages:
        from updater.nemotron.tokenizer import reader

        given = arguments["checkpoint"] if kind == "adopt" else _tokenizer(workspace)
        beginning.check_template(str(given), reader(Path(given)))
    workspace.registry.check()  # training would miss it at its end, after hours
    room.check_first(workspace, kind, arguments.get("checkpoint", ""))
    if kind == "adopt":
        beginning.check_numbers(Path(arguments["checkpoint"]), progress=workspace.progress)
    started = time.monotonic()
    versions = [_with_holdout(ingest.version_period(workspace, p)) for p in periods]
    datasets = {version.period: version.id for version in versions}
    opened = _open(workspace, kind, datasets, arguments, base=None)
    _record_ingest(workspace, opened, time.monotonic() - started)
    return opened


def open_compression(workspace: Workspace, version: str, *, approve: bool = False) -> Update:
    """The update that makes a smaller version of `version`: found where it is known, else opened.

    Raises:
        InputError: [compression] takes nothing away, the version is a compressed one, `approve` is
            said of one that is not deployed, or there is no torch here, or no memory for what
            learns again.
        NotFoundError: no such version; MLflow has no experiment of the workspace's name.
        StoreError: a store can't be read or written.
    """
    found, asked = workspace.ledger.model_version(version), workspace.settings.compression
    if not asked.is_on:
        raise InputError(
            "nothing is to be taken away",
            '--method and --quantize, or what [compression] says in their place, are both "none"',
            f"say what: `updater compress {version} --method obd --sparsity 0.5`",
        )
    if found.kind == "compress":
        raise InputError(
            f"version {version} is compressed",
            "what was taken away is not taken away twice: each is made of the uncompressed one",
            f"compress what it was made from: `{typed.compression(str(found.base), asked)}`",
        )
    arguments = {"version": version}
    period = max(found.dataset_versions, key=workspace.periods.ordinal)
    known = _known(workspace, "compress", period, arguments)
    if known is not None:
        return known
    deployed = release.deployed(workspace.ledger)
    if approve and deployed != version:
        raise InputError(
            f"--yes, and version {deployed} is deployed, not {version}",
            "a compressed version takes the place of the one that it was made of, and of no other",
            f"leave --yes out, or run `{typed.compression(str(deployed), asked)} --yes`",
        )
    if deployed != version:
        log.warning(
            "version %s is deployed: a smaller version %s can be looked at, and takes the place of "
            "version %s alone, once that is deployed",
            deployed,
            version,
            version,
        )
    training_core.check("compress")
    beginning.check_start(workspace, uncompressed(workspace, found), version, may_be_own=False)
    room.check_recovery(workspace, found)
    workspace.registry.check()
    datasets = {period: found.dataset_versions[period]}
    return _open(workspace, "compress", datasets, arguments, base=version)


def _tokenizer(workspace: Workspace) -> Path:
    """The configured tokenizer's folder. One that is trained has no chat template.

    Raises:
        InputError: none is configured.
    """
    given = workspace.settings.model.tokenizer
    if not given:
        raise InputError(
            "model.tokenizer is not given",
            "conversations (source.fields.messages) are rendered by a tokenizer's chat template, "
            "and one that `updater scratch` trains has none",
            "set it to a folder with tokenizer.json and chat_template.jinja",
        )
    return workspace.root / given


def _known(
    workspace: Workspace, kind: str, period: str, arguments: dict[str, Any]
) -> Update | None:
    """The newest update with the same arguments and configuration that still stands.

    It stands while its base is deployed, or its candidate is or was on the way to what is (run
    twice is run once), no newer data of the period has been versioned since, and nobody has
    abandoned it.
    """
    ledger = workspace.ledger
    wanted = _config_digest(workspace, arguments)
    deployed = release.deployed(ledger)
    newest = {d.period: d.id for d in ledger.dataset_versions()}
    for update in reversed(ledger.updates(period=period)):
        same = (update.kind, update.config_digest) == (kind, wanted)
        if (
            not same
            or abandoned(ledger, update.id)
            or any(newest[p] != d for p, d in update.config["datasets"].items())
        ):
            continue
        if kind != "update" or deployed == update.base:
            return update
        if update.candidate in lineage(ledger, deployed):
            return update
    return None


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
    given_up = _given_up(workspace, period, (kind, datasets, base, digest))
    identity = json.dumps([kind, datasets, base, digest, *([given_up] if given_up else [])])
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
                "updater_version": versions.HERE,
            },
            config_digest=digest,
            candidate=None,
            created_at=workspace.ledger.now(),
        )
    )


def _given_up(workspace: Workspace, period: str, same: tuple[object, ...]) -> int:
    """Of the updates that are the same, how many were abandoned: after those it is another one,
    which begins anew."""
    return sum(
        (one.kind, one.config["datasets"], one.base, one.config_digest) == same
        for one in workspace.ledger.updates(period=period)
        if abandoned(workspace.ledger, one.id) is not None
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
