"""What an update's base has learnt: its periods, and examples of them.

Reads the ledger alone. Called by the steps that rehearse, weigh and hold back.
"""

from collections.abc import Mapping

from rehearsal.manifest import Manifest, plan
from rehearsal.policies import Past
from store.ledger import Update
from updater.workspace import Workspace


def past_versions(workspace: Workspace, update: Update) -> dict[str, str]:
    """Period -> dataset version of what the base has learnt, less the period learnt now; nothing
    is learnt where it is only compressed."""
    if update.base is None:
        return {}
    if update.kind == "compress":
        return dict(workspace.ledger.model_version(update.base).dataset_versions)
    return past_of(workspace, update.base, update.period)


def past_of(workspace: Workspace, base: str, period: str) -> dict[str, str]:
    """The same of an update of `period` on `base`, which need not be open yet."""
    learnt = dict(workspace.ledger.model_version(base).dataset_versions)
    learnt.pop(period, None)
    return learnt


def uniform_sample(workspace: Workspace, datasets: Mapping[str, str], budget: int) -> Manifest:
    """At most `budget` train examples of these dataset versions (by period), uniform, always the
    same ones."""
    past = [
        Past(
            period=period,
            dataset_version=version,
            num_train=workspace.ledger.dataset_version(version).num_train,
            ordinal=workspace.periods.ordinal(period),
        )
        for period, version in datasets.items()
    ]
    return plan(past, policy="uniform", budget=budget)
