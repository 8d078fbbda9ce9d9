"""Which of an update's train examples the trials of a search learn, and which judge them.

New and rehearsed ones are held back alike; the holdout is never read. Called by
`updater.steps.search`.
"""

from typing import TYPE_CHECKING, NamedTuple

from rehearsal import window
from rehearsal.manifest import Manifest
from store.ledger import Update
from updater.steps.past import past_versions, uniform_sample
from updater.steps.rehearse import manifest_of, planned
from updater.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


class Tables(NamedTuple):
    """Examples to learn: the new ones, and those shown again (None: nothing is)."""

    new: "pa.Table"
    rehearsed: "pa.Table | None"


class HeldBack(NamedTuple):
    """`kept` and `windows` (by period) are new and old examples that trials may learn; `new` and
    `past` judge them, `past` None where there is none."""

    kept: "pa.Table"
    windows: "dict[str, pa.Table]"
    new: "pa.Table"
    past: "pa.Table | None"


def hold_back(workspace: Workspace, update: Update, new: "pa.Table") -> HeldBack:
    """The last part of the new examples and of every planned window judges: each is in hash order,
    so it is a uniform sample. Where nothing is rehearsed, as many of all the past do as of the new.
    """
    fraction = workspace.settings.training.search.holdback_fraction
    manifest = planned(workspace, update)
    kept, held = _parted(new, fraction)
    parts = {p: _parted(table, fraction) for p, table in _windows(workspace, manifest).items()}
    past = [part for _, part in parts.values()]
    versions = past_versions(workspace, update)
    if versions and not manifest.choices:
        sample = uniform_sample(workspace, versions, held.num_rows)
        past = list(_windows(workspace, sample).values())
    return HeldBack(kept, {p: part for p, (part, _) in parts.items()}, held, _joined(past))


def lesson_of(workspace: Workspace, update: Update, held: HeldBack) -> Tables:
    """What one trial learns: what is kept of the new, and as much of every window as keeps the
    ratio that the whole update would have by the workspace's settings."""
    kept_fraction = 1 - workspace.settings.training.search.holdback_fraction
    rehearsed = [
        held.windows[choice.period].slice(0, max(1, round(kept_fraction * choice.count)))
        for choice in manifest_of(workspace, update).choices
    ]
    return Tables(held.kept, _joined(rehearsed))


def _parted(table: "pa.Table", fraction: float) -> "tuple[pa.Table, pa.Table]":
    """All but the last `fraction` of the rows, and those: one at least, but not the only one."""
    num_held = min(max(1, round(fraction * table.num_rows)), max(table.num_rows - 1, 0))
    num_kept = table.num_rows - num_held
    return table.slice(0, num_kept), table.slice(num_kept)


def _windows(workspace: Workspace, manifest: Manifest) -> "dict[str, pa.Table]":
    """Period -> the examples that the manifest names of it."""
    table = window.load(manifest, lambda version: workspace.datasets.path(version, "train.parquet"))
    tables, first = {}, 0
    for choice in manifest.choices:
        tables[choice.period] = table.slice(first, choice.count)
        first += choice.count
    return tables


def _joined(tables: "list[pa.Table]") -> "pa.Table | None":
    import pyarrow as pa

    whole = pa.concat_tables(tables) if tables else None
    return whole if whole is not None and whole.num_rows else None
