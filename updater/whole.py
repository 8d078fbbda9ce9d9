"""Whether a version's checkpoint is there and whole, told by the version and with a way on.

Reads manifests and sizes, no weights. Called before a version is deployed, also at night: then the
way on is another version that was deployed before.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from store.errors import DamagedError, StoreError
from store.ledger import Ledger, ModelVersion
from updater.errors import InputError

if TYPE_CHECKING:
    from store.checkpoints import Checkpoints

MOST_LOOKS = 10
"""At how many other versions it looks: behind a URL each is a few questions, and somebody waits."""


def check(checkpoints: "Checkpoints", version: ModelVersion) -> None:
    """The version's checkpoint is there, every file with its size.

    Raises:
        InputError: it is gone or damaged.
        UnreachableError, StoreError: the store can't be asked.
    """
    wrong = fault(checkpoints, version)
    if wrong:
        raise InputError(wrong, "only what is whole is deployed", restore(checkpoints, version))


def check_for_rollback(checkpoints: "Checkpoints", ledger: Ledger, version: ModelVersion) -> None:
    """As `check`; the cure names another version to roll back to, where one is whole."""
    wrong = fault(checkpoints, version)
    if not wrong:
        return
    last = ledger.last_release()
    now = last.version if last else None
    others = [v for v in reversed(ledger.ever_deployed()) if v not in (now, version.id)]
    other = _first_whole(checkpoints, ledger, others)
    rule = f"only what is whole is deployed, and version {now} stays so"
    cure = restore(checkpoints, version)
    if other:
        cure = f"`updater rollback --to {other} --reason TEXT` deploys what is whole; or {cure}"
    else:
        rule += "; no other that was deployed before was found whole"
    raise InputError(wrong, rule, cure)


def fault(checkpoints: "Checkpoints", version: ModelVersion) -> str:
    """What is wrong with the version's checkpoint; empty where nothing is.

    Raises:
        UnreachableError, StoreError: the store can't be asked.
    """
    try:
        if checkpoints.has(version.digest):
            checkpoints.quick_check(version.digest)
            return ""
        return f"the checkpoint of version {version.id}, {checkpoints.uri(version.digest)}, is gone"
    except DamagedError as error:
        return f"the checkpoint of version {version.id} is damaged: {error.what}"


def restore(checkpoints: "Checkpoints", version: ModelVersion) -> str:
    """How the version's checkpoint comes back."""
    return (
        f"restore {checkpoints.uri(version.digest)} from a copy of the checkpoint store "
        "(docs/backup.md), and run the same command again"
    )


def _first_whole(checkpoints: "Checkpoints", ledger: Ledger, versions: Sequence[str]) -> str:
    """The first of the versions that is whole; empty where none is, or the store breaks off."""
    for version in versions[:MOST_LOOKS]:
        try:
            if not fault(checkpoints, ledger.model_version(version)):
                return version
        except StoreError:
            return ""
    return ""
