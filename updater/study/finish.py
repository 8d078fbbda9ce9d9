"""What a study leaves when its runs are there: report, tables and plots on disk, and in MLflow.

Called by `updater study`. A study of some arms only (`--only`) is answered and leaves its records:
the report and MLflow are of the whole study.
"""

import hashlib
import logging
from typing import Any

from store.errors import StoreError
from updater.study.conduct import Conducted
from updater.study.plan import OF_SETTINGS
from updater.study.report import exports, outputs
from updater.study.report.publish import publish
from updater.study.tabulated import Table, tabulate
from updater.workspace import Workspace

log = logging.getLogger("updater")
REPORT = "report"


def finish(workspace: Workspace, done: Conducted) -> dict[str, Any]:
    """The answer of `updater study --json`; the study's report is in its folder, and it is in
    MLflow, or there is a warning that MLflow could not be reached.

    Raises:
        OSError: the folder can't be written.
    """
    study = done.study
    failed = [{"title": one.title, "why": one.reason} for one in done.failed]
    common = {"study": study.name, "folder": str(done.folder), "failed": failed}
    table = _table(done)
    if done.is_part:
        return {**exports.answer(table), **common}
    folder = done.folder / REPORT
    answer = outputs.write(table, folder, title=study.name)
    try:
        name = f"{study.name} {_digest(done)}"
        publish(
            workspace.registry,
            table,
            folder,
            study=name,
            num_periods=len(study.span.periods),
            settings=_differing(done),
        )
    except StoreError as error:
        log.warning("the report is written, MLflow has not got it: %s", error)
    return {**answer, **common}


def _table(done: Conducted) -> Table:
    study = done.study
    return tabulate(
        done.runs,
        study.reference,
        scratch=study.scratch,
        pairs=study.pairs,
        sweeps=done.sweeps,
        uncompressed=study.uncompressed,
        ways={arm.name: arm.way for arm in study.arms if arm.way},
    )


def _digest(done: Conducted) -> str:
    """Of all that decides the runs, and of what the arms are called: another study needs another
    MLflow run."""
    names = [done.study.reference, *sorted(arm.name for arm in done.study.arms)]
    return hashlib.sha256("\0".join([*names, *sorted(done.keys)]).encode()).hexdigest()[:8]


def _differing(done: Conducted) -> dict[str, dict[str, Any]]:
    """Arm -> setting -> value, of the settings that are not alike in all arms."""
    found = {}
    sections = OF_SETTINGS if done.study.replay is None else (*OF_SETTINGS, "gate")
    for arm in done.study.arms:
        whole = arm.settings.as_dict()
        flat = {f"{s}.{key}": value for s in sections for key, value in whole[s].items()}
        found[arm.name] = flat | arm.options
    names = next(iter(found.values()), {})
    differing = [n for n in names if len({str(one[n]) for one in found.values()}) > 1]
    return {arm: {n: one[n] for n in differing} for arm, one in found.items()}
