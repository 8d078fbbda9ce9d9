"""Making a workspace: configuration, data repository, ledger, MLflow. Each part is made once.

Called by `updater init`, by the demo, and again by whoever upgrades: it is also what brings an
older ledger's schema up to date.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from updater import config
from updater.errors import InputError
from updater.files import write_text
from updater.workspace import CONFIG_FILE, Workspace

log = logging.getLogger("updater")

EXAMPLE = """\
# The configuration of this workspace; every key: docs/configuration.md

[workspace]
name = "{name}"                   # MLflow experiment and registered model

[model]
architecture = "nemotron-3-tiny"  # for `updater scratch`: a preset or a config.json
vocabulary_size = 2048

[source]
uri = "examples.jsonl"            # file, glob, folder, fsspec URL (s3://..), or database + query

[source.fields]                   # templates over the source's own columns
id = "{{id}}"
prompt = "{{question}}\\nAnswer:"
completion = " {{answer}}"
date = "{{date}}"                 # or a named one: period = "{{domain}}"

[periods]
every = "month"                   # day | week | month | quarter | year
holdout_fraction = 0.1            # never trained on: what scores are measured on

[rehearsal]
policy = "balanced"               # none | uniform | balanced | .. (docs/configuration.md)
fraction = 0.25                   # of all past train examples

[regularizer]
method = "ewc"                    # none | l2 | ewc | ..

[compression]                     # what every update takes away before it ships
method = "none"                   # none | magnitude | obd | .. (docs/compression.md)
# remove = "weights"              # weights | neurons | experts | heads | layers
# sparsity = 0.5                  # how much of it
quantize = "none"                 # none | int8 | int4 | fp8 | nvfp4

[gate]
margin_fraction = 0.02            # how much worse a past period may become
confidence = 0.95
approval = "auto"                 # auto | manual
"""


def init_workspace(
    folder: Path, config_file: Path | None = None, overrides: Sequence[config.Override] = ()
) -> Workspace:
    """`folder` is a workspace, ready to work.

    What is there already is kept; only an older ledger is migrated, and a remote that was
    configured since gets the dataset versions.

    Raises:
        InputError: a bad configuration, another one than `config_file` is there already, or there
            are checkpoints of a ledger that was lost.
        StoreError: git, DVC, the ledger or MLflow can't be set up.
    """
    folder = folder.expanduser().resolve()
    if config_file is not None:
        config.load_file(config_file, overrides, os.environ)  # before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(folder, config_file)
    workspace = Workspace.open(folder, overrides)
    for name in ("checkpoints", "cache", "outcomes", "runs"):
        (folder / name).mkdir(exist_ok=True)
    from store.datasets import Datasets
    from store.ledger import migrate

    _refuse_lost(workspace)
    Datasets.create(folder, workspace.dvc_remote)
    migrate(workspace.ledger_url)
    workspace.registry.create()
    if workspace.dvc_remote:
        _push(workspace)
    return workspace


def _refuse_lost(workspace: Workspace) -> None:
    """Where there are checkpoints there is a ledger, which alone says what is deployed."""
    from store.errors import NoLedgerError, StoreError

    try:
        _ = workspace.ledger
    except NoLedgerError as error:
        found = workspace.checkpoints.digests()
        if found:
            raise InputError(
                f"{error} {len(found)} checkpoints lie in {workspace.checkpoints.location}",
                "a new ledger would know nothing of them, nor of what is deployed",
                "restore it; or, to begin anew, move the checkpoints away first",
            ) from error
    except StoreError:  # it is there, or told by what comes next
        return


def _push(workspace: Workspace) -> None:
    """The remote has every dataset version, also those made before it was configured."""
    from store.errors import NotFoundError

    for version in workspace.ledger.dataset_versions():
        try:
            workspace.datasets.push([version.id])
        except NotFoundError as error:
            log.warning("%s was not sent to the remote: %s", version.id, error)


def _write_config(folder: Path, config_file: Path | None) -> None:
    target = folder / CONFIG_FILE
    if config_file is None:
        if not target.exists():
            write_text(target, EXAMPLE.format(name=_name(folder)))
        return
    wanted = config_file.read_text("utf-8")
    if target.exists() and target.read_text("utf-8") != wanted:
        raise InputError(
            f"{target} is there already, and differs from {config_file}",
            "init never overwrites a configuration",
            "edit it in place, or leave out --config",
        )
    write_text(target, wanted)


def _name(folder: Path) -> str:
    """The folder's name as far as a workspace's name may go."""
    letters = [c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in folder.name]
    return "".join(letters).strip("-_")[:63] or "model"
