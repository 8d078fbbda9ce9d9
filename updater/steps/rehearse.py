"""Step rehearse: which old examples the update shows again, as a manifest.

Not the reading of examples: `rehearsal.window` does that when training starts. The base is loaded
for the policies that ask it, and for no other.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from rehearsal import scored
from rehearsal.choose import choose
from rehearsal.manifest import Manifest
from rehearsal.policies import Past
from store.ledger import ModelVersion, Update
from updater.files import write_text
from updater.rehearsed import rehearsed
from updater.settings import RehearsalSettings
from updater.steps import room
from updater.steps.past import past_versions
from updater.steps.start import start_folder
from updater.steps.student import answers
from updater.stopwatch import Stopwatch
from updater.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from rehearsal.scored import Score


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """The manifest is in the update's folder and in the result.

    Raises:
        UpdateError: the policy asks the base, and its losses are no numbers.
        InputError: it does, and as `room.check`.
    """
    if workspace.settings.rehearsal.policy in scored.DRAWS:
        room.check(workspace, update)
    past = _past(workspace, update)
    watch = Stopwatch()
    manifest = choose(
        past,
        _widest(workspace).request(
            sum(p.num_train for p in past),
            cursors=_cursors(workspace, update),
            seed=workspace.settings.training.seed,
        ),
        locate=lambda version: workspace.datasets.path(version, "train.parquet"),
        score=_score(workspace, update, watch),
    )
    write_text(workspace.run_folder(update.id) / "manifest.json", manifest.to_json())
    return {
        "policy": manifest.policy,
        "budget": manifest.budget,
        "num_examples": manifest.num_examples,
        "digest": manifest.digest,
        "manifest": manifest.to_json(),
        "compute_seconds": watch.seconds,
    }


def planned(workspace: Workspace, update: Update) -> Manifest:
    """The manifest that this update's rehearse step chose: where fractions are searched, as much
    as the largest of them takes."""
    step = workspace.ledger.step(update.id, "rehearse")
    assert step is not None, "the pipeline runs rehearse before what reads its manifest"
    return Manifest.from_json(step.result["manifest"])


def manifest_of(workspace: Workspace, update: Update) -> Manifest:
    """What this update rehearses by the workspace's settings: of what was planned for the largest
    fraction of a search, the first part of every window."""
    manifest = planned(workspace, update)
    if "rehearsal_fraction" not in workspace.settings.training.search.ranges:
        return manifest
    versions = past_versions(workspace, update).values()
    num_past = sum(workspace.ledger.dataset_version(version).num_train for version in versions)
    return manifest.first(workspace.settings.rehearsal.examples(num_past))


def _score(workspace: Workspace, update: Update, watch: Stopwatch) -> "Score":
    """What the base makes of examples; `watch` is told how long its forward passes take."""

    def score(examples: "pa.Table") -> "pa.Table":
        assert update.base is not None, "without a base there is no past to ask about"
        from updater.evaluate import of_numbers

        base = start_folder(workspace, update.base)
        tables = {"pool": examples}
        said = answers(workspace, base, tables, watch, progress=workspace.progress)
        return of_numbers(said["pool"])

    return score


def _widest(workspace: Workspace) -> RehearsalSettings:
    """How much to rehearse at most: a search takes parts of what is planned."""
    settings = workspace.settings
    fractions = settings.training.search.ranges.get("rehearsal_fraction")
    if fractions is None:
        return settings.rehearsal
    return dataclasses.replace(settings.rehearsal, fraction=fractions[1])


def _past(workspace: Workspace, update: Update) -> list[Past]:
    ledger = workspace.ledger
    ever_deployed = set(ledger.ever_deployed())
    past = []
    for period, version in past_versions(workspace, update).items():
        scores = [s for s in ledger.scores(period=period) if s.dataset_version == version]
        base = [s.accuracy for s in scores if s.version == update.base]
        best = [s.accuracy for s in scores if s.version in ever_deployed]
        past.append(
            Past(
                period=period,
                dataset_version=version,
                num_train=ledger.dataset_version(version).num_train,
                ordinal=workspace.periods.ordinal(period),
                accuracy=base[0] if base else None,
                best_accuracy=max(best) if best else None,
            )
        )
    return sorted(past, key=lambda p: p.ordinal)


def _cursors(workspace: Workspace, update: Update) -> dict[str, int]:
    """Where the base's own update stopped reading each period: windows never start over."""
    base: ModelVersion | None = workspace.ledger.model_version(update.base) if update.base else None
    while base is not None:
        manifest = rehearsed(workspace.ledger, base.update) if base.update else None
        if manifest is not None:
            return dict(manifest.cursors)
        base = workspace.ledger.model_version(base.base) if base.base else None
    return {}
