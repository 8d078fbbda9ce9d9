"""What must hold before an update is opened: of its period, and of the weights that it begins at.

Read from the ledger, the calendar and a checkpoint's small files; weights are read of what is to be
adopted alone. Called by `updater.opening`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from store.errors import NotFoundError
from updater.errors import InputError, UpdateError
from updater.steps.start import Start
from updater.workspace import Workspace


def check_closed(workspace: Workspace, period: str, *, is_scheduled: bool) -> None:
    """The period is over by the ledger's clock, which is the same for all workers.

    Raises:
        InputError: it is not.
        UpdateError: it is not, and a scheduler's clock says that it is. Clocks are a little apart
            everywhere, so the task has to be tried again.
    """
    now = workspace.ledger.now()
    if is_scheduled and not workspace.periods.closed(period, now):
        raise UpdateError(
            f"period {period} ends {workspace.periods.end_shown(period)}; by the scheduler's clock "
            f"that has passed, and by the ledger's it is {now:%Y-%m-%d %H:%M:%S} UTC. Set the two "
            "machines' clocks by NTP, and run this again"
        )
    workspace.periods.check_closed(period, now)


def check_first(workspace: Workspace, period: str, learnt: Iterable[str]) -> None:
    """The first update of a workspace, where a scheduler asks for it, passes over no older period.

    Only the first: the ticks after it follow one another without a gap (`catchup` of the DAG), and
    which of their periods are left out is said in Airflow.

    Raises:
        InputError: it does.
    """
    ledger, place = workspace.ledger, workspace.periods.ordinal
    if any(update.kind == "update" for update in ledger.updates()):
        return
    due = workspace.periods.due(list(learnt), ledger.now())
    if older := [one for one in due if place(one) < place(period)]:
        more = f" and {len(older) - 1} more" if len(older) > 1 else ""
        raise InputError(
            f"the schedule's first update would be that of {period}, and {older[0]}{more} before "
            "it closed and is not learnt",
            "periods are learnt in order, and none is passed over without anybody saying so",
            f"either learn what `updater due` lists, from `updater update {older[0]}` on, and run "
            f"this again; or begin with {period} by naming it: `updater update {period}`, or the "
            "form of the DAG model_update",
        )


def check_length(workspace: Workspace, digest: str) -> None:
    """The checkpoint takes the longest example.

    Raises:
        InputError: it is made for shorter ones.
    """
    from updater.nemotron.validate import check_length

    longest = workspace.settings.model.max_length_tokens
    check_length(_fields(workspace, digest), longest, where=_where(workspace, digest))


def check_numbers(folder: Path, *, progress: bool) -> None:
    """What is to be adopted is a checkpoint, of finite weights. Reads all of them.

    Raises:
        InputError: it isn't.
    """
    from updater.nemotron import reading
    from updater.nemotron.validate import check

    reading.check_numbers(folder, check(folder, quantized=True), progress=progress)


def check_start(
    workspace: Workspace, start: Start, version: str, *, may_be_own: bool = True
) -> None:
    """The weights that work on `version` begins at are there, can be trained, and have what
    compression takes away.

    Args:
        may_be_own: by `compression.start` it could begin at the version's own weights.

    Raises:
        InputError: they are gone, quantized, or have it not.
        StoreError: a file of them is damaged.
    """
    from updater.compress.fits import check

    checkpoints, own = workspace.checkpoints, workspace.ledger.model_version(version).digest
    try:
        checkpoints.quick_check(start.digest)
    except NotFoundError as gone:
        when, cure = "", "restore them from the backup of the checkpoints"
        if start.digest != own:
            when = " before it was compressed"
            if may_be_own and not _fields(workspace, own).get("quantization_config"):
                cure += ', or set compression.start = "compressed"'
        raise InputError(
            f"the weights of version {version}{when} are gone: {gone}",
            "work on a version begins at them",
            cure,
        ) from gone
    fields, settings = _fields(workspace, start.digest), workspace.settings.compression
    if start.version.id == version and fields.get("quantization_config"):
        raise InputError(
            f'compression.start = "{settings.start}": version {version} is quantized',
            "quantized weights can't be trained",
            'set compression.start = "uncompressed": its weights of before are kept',
        )
    if settings.is_on:
        check(fields, settings, where=_where(workspace, start.digest))


def check_head(workspace: Workspace, start: Start) -> None:
    """What `training.mtp` asks for can be done to the weights that an update begins at, as far as
    config.json and the index tell. Those in a single file have no index: the first step that works
    with the model reads which tensors are there (`updater.steps.room`).

    Raises:
        InputError: they have no head to align.
        StoreError: those files can't be read.
    """
    training = workspace.settings.training
    if training.mtp != "align":
        return
    from updater.nemotron import files, heads

    checkpoints, tensors = workspace.checkpoints, None
    if files.INDEX in checkpoints.names(start.digest):
        index = checkpoints.read(start.digest, files.INDEX)
        where = f"{checkpoints.uri(start.digest)}/{files.INDEX}"
        tensors = files.parse_index(index, where=where).keys()
    fields = _fields(workspace, start.digest)
    heads.check(training, fields, tensors, where=f"version {start.version.id}")


def _where(workspace: Workspace, digest: str) -> str:
    return f"{workspace.checkpoints.uri(digest)}/config.json"


def _fields(workspace: Workspace, digest: str) -> dict[str, Any]:
    """The config.json of a stored checkpoint. Raises: NotFoundError: it is gone."""
    from updater.nemotron.presets import parse_config

    text = workspace.checkpoints.read(digest, "config.json").decode()
    return parse_config(text, where=_where(workspace, digest))


def check_base_template(workspace: Workspace, digest: str) -> None:
    """As `check_template`, of a stored checkpoint; its weights are not fetched for it."""
    checkpoints = workspace.checkpoints
    names = checkpoints.names(digest)

    def read(name: str) -> str | None:
        return checkpoints.read(digest, name).decode() if name in names else None

    check_template(checkpoints.uri(digest), read)


def check_template(where: str, read: Callable[[str], str | None]) -> None:
    """Conversations can be shown to the checkpoint, or by the tokenizer, whose files `read` gives.

    Raises:
        InputError: it has no chat template.
    """
    from updater.nemotron.tokenizer import has_template

    if not has_template(read):
        raise InputError(
            f"{where}: no chat template",
            "conversations (source.fields.messages) are rendered by it",
            "put the release's chat_template.jinja beside its tokenizer.json",
        )
