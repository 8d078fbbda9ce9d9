"""Whether this updater may go on with an update that another version of it has opened.

Workers are brought to a new version one by one, and one may be forgotten. Between versions that
differ in their last number alone an update goes on, and says so; others may read each other's
files wrong, and a step is refused before it does anything. Called by `updater.pipeline`.
"""

from updater import __version__
from updater.errors import InputError

HERE = __version__
MIX = "--mix-versions"


def differing(update_id: str, opened_by: str | None, *, mix: bool) -> str:
    """The other version that has opened the update; "" where it was this one, or one of the time
    when none was recorded.

    Raises:
        InputError: it is too different, and nobody said `--mix-versions`.
    """
    if opened_by in (None, HERE):
        return ""
    if _series(opened_by) != _series(HERE) and not mix:
        raise InputError(
            f"update {update_id} was opened by updater {opened_by}, and this is {HERE}",
            "all steps of an update run by one version",
            f"run it where {_series(opened_by)} is, bring this worker to it, or go on with both: "
            f"`updater step NAME --update {update_id} {MIX}`, and clear the task in Airflow",
        )
    return opened_by


def _series(version: str) -> str:
    """Its first two numbers."""
    return ".".join(version.split(".")[:2])
