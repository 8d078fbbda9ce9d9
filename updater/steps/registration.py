"""What step train tells the registry: one MLflow run per update, and the candidate's version.

Not the training (`updater.steps.train`, which calls this) and not what is published of a judged
update (`updater.steps.publish`).
"""

import dataclasses
from typing import Any

from store.ledger import ModelVersion, Update
from updater.settings import PLACES
from updater.steps.life import tags_of
from updater.steps.rehearse import manifest_of
from updater.steps.trainings import training_of
from updater.workspace import Workspace


def run_of(workspace: Workspace, update: Update) -> str:
    """The MLflow run of this update, opened on first use and found again ever after."""
    run_id = workspace.registry.open_run(
        update.id,
        run_name=f"{update.kind} {update.base if update.kind == 'compress' else update.period}",
        parameters=_parameters(workspace, update),
        tags={**tags_of(workspace, update), "mlflow.user": workspace.actor},
    )
    workspace.registry.log_config(run_id, update.config)
    for version, context in _inputs(workspace, update):
        dataset = workspace.ledger.dataset_version(version)
        workspace.registry.log_dataset(
            run_id, name=dataset.period, digest=dataset.digest, context=context, uri=version
        )
    return run_id


def log_places(workspace: Workspace, update: Update, run_id: str) -> None:
    """Where it is trained, as tags: MLflow lets nobody change a parameter, and it may go on
    elsewhere."""
    training = dataclasses.asdict(training_of(workspace, update))
    workspace.registry.tag(run_id, {f"training/{name}": training[name] for name in PLACES})


def _parameters(workspace: Workspace, update: Update) -> dict[str, Any]:
    """What this kind of update goes by, and no setting that it doesn't."""
    settings = workspace.settings
    parameters: dict[str, Any] = {"period": update.period, "base": update.base or "none"}
    if update.kind == "update":
        parameters |= {
            "rehearsal/policy": settings.rehearsal.policy,
            "regularizer/method": settings.regularizer.method,
            "regularizer/strength": settings.regularizer.penalty_strength,
        }
    if settings.compression.is_on and update.kind in ("update", "compress"):
        compression = dataclasses.asdict(settings.compression)
        parameters |= {f"compression/{name}": value for name, value in compression.items()}
    if update.kind in ("update", "scratch"):
        training = dataclasses.asdict(training_of(workspace, update))
        search = training.pop("search")
        if update.kind == "update" and search["trials"]:
            training |= {f"search/{name}": value for name, value in search.items()}
            if search["rehearsal_fraction"]:
                parameters["rehearsal/fraction"] = settings.searched()["rehearsal_fraction"]
        parameters |= {
            f"training/{name}": value for name, value in training.items() if name not in PLACES
        }
    return parameters


def _inputs(workspace: Workspace, update: Update) -> list[tuple[str, str]]:
    """(dataset version, what the run does with it)."""
    use = "compression" if update.kind == "compress" else "training"
    inputs = [(version, use) for version in update.config["datasets"].values()]
    if update.kind == "update":
        choices = manifest_of(workspace, update).choices
        inputs += [(choice.dataset_version, "rehearsal") for choice in choices]
    return inputs


def register(workspace: Workspace, update: Update, digest: str) -> str:
    """The version number of the candidate, the same however often it is asked for."""
    run_id = run_of(workspace, update)
    learnt = (
        dict(workspace.ledger.model_version(update.base).dataset_versions) if update.base else {}
    )
    learnt |= update.config["datasets"]
    version = workspace.registry.register(
        run_id,
        key=update.id,
        checkpoint_uri=workspace.checkpoints.uri(digest),
        checkpoint_digest=digest,
        tags={
            "update": update.id,
            "base": update.base or "none",
            "dataset_versions": " ".join(learnt.values()),
            "rehearsal_manifest": manifest_of(workspace, update).digest
            if update.kind == "update"
            else "none",
        },
        description=f"{update.kind} on {update.period}, from version {update.base or 'none'}",
    )
    workspace.ledger.record_model_version(
        ModelVersion(
            id=version,
            kind=update.kind,
            base=update.base,
            update=update.id,
            digest=digest,
            uri=workspace.checkpoints.uri(digest),
            periods=sorted(learnt, key=workspace.periods.ordinal),
            dataset_versions=learnt,
            run_id=run_id,
            created_at=workspace.ledger.now(),
        )
    )
    workspace.ledger.set_candidate(update.id, version)
    return version
