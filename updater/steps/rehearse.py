"""Step rehearse: which old examples the update shows again, as a manifest of windows.

Not the reading of examples: `rehearsal.window` does that when training starts.
"""

from typing import Any

from rehearsal.manifest import Manifest, plan
from rehearsal.policies import Past
from store.ledger import ModelVersion, Update
from updater import release
from updater.files import write_text
from updater.workspace import Workspace


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """The manifest is in the update's folder and in the result."""
    past = _past(workspace, update)
    budget = workspace.settings.rehearsal.examples(sum(p.num_train for p in past))
    manifest = plan(
        past,
        policy=workspace.settings.rehearsal.policy,
        budget=budget,
        cursors=_cursors(workspace, update),
    )
    write_text(workspace.run_folder(update.id) / "manifest.json", manifest.to_json())
    return {
        "policy": manifest.policy,
        "budget": manifest.budget,
        "num_examples": manifest.num_examples,
        "digest": manifest.digest,
        "manifest": manifest.to_json(),
    }


def manifest_of(workspace: Workspace, update: Update) -> Manifest:
    """The manifest that this update's rehearse step chose."""
    step = workspace.ledger.step(update.id, "rehearse")
    assert step is not None, "the pipeline runs rehearse before what reads its manifest"
    return Manifest.from_json(step.result["manifest"])


def past_versions(workspace: Workspace, update: Update) -> dict[str, str]:
    """Period -> dataset version of what the base has learnt, less the period learnt now."""
    if update.base is None:
        return {}
    learnt = dict(workspace.ledger.model_version(update.base).dataset_versions)
    learnt.pop(update.period, None)
    return learnt


def _past(workspace: Workspace, update: Update) -> list[Past]:
    ledger = workspace.ledger
    ever_deployed = set(release.deployments_ever(ledger.events()))
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
        step = workspace.ledger.step(base.update, "rehearse") if base.update else None
        if step is not None and step.state == "finished":
            return dict(Manifest.from_json(step.result["manifest"]).cursors)
        base = workspace.ledger.model_version(base.base) if base.base else None
    return {}
