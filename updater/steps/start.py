"""Which weights an update begins at: the base's own, or those of before it was compressed.

What compression took away is not taken away twice: by default (`compression.start`) the next update
begins at the uncompressed weights, and is compressed anew. Called by the steps that train, weigh
and compress.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from store.ledger import ModelVersion
from updater.workspace import Workspace


class Start(NamedTuple):
    """`digest`: of the checkpoint with the weights. `version`: that learnt them, and by whose steps
    they came."""

    version: ModelVersion
    digest: str


def start_at(workspace: Workspace, version: str) -> Start:
    """Where an update of the version begins."""
    found = workspace.ledger.model_version(version)
    return _at(workspace, found, workspace.settings.compression.start)


def uncompressed(workspace: Workspace, version: ModelVersion) -> Start:
    """The version's weights before anything was taken away of them."""
    while version.kind == "compress":
        assert version.base is not None, "what is compressed has a base"
        version = workspace.ledger.model_version(version.base)
    step = None if version.update is None else workspace.ledger.step(version.update, "train")
    made = {} if step is None else step.result
    return Start(version, made.get("uncompressed", version.digest))


def is_compressed(workspace: Workspace, start: Start) -> bool:
    """Whether something was taken away of these weights."""
    return start.digest != uncompressed(workspace, start.version).digest


def line(workspace: Workspace, version: str) -> Iterator[Start]:
    """Where an update of the version begins; then where each before it began, by the settings of
    its day. Compressed weights are the last: those before them may be of other shapes."""
    found = start_at(workspace, version)
    yield found
    while found.version.base is not None and not is_compressed(workspace, found):
        update = found.version.update
        config = {} if update is None else workspace.ledger.update(update).config
        start = config.get("compression", {}).get("start", "uncompressed")  # once there was none
        found = _at(workspace, workspace.ledger.model_version(found.version.base), start)
        yield found


def _at(workspace: Workspace, version: ModelVersion, start: str) -> Start:
    if start == "compressed":
        return Start(version, version.digest)
    return uncompressed(workspace, version)


def start_folder(workspace: Workspace, version: str) -> Path:
    """The folder of the checkpoint at which an update of the version begins.

    Raises:
        NotFoundError: it is gone.
    """
    return workspace.checkpoints.local(start_at(workspace, version).digest)
