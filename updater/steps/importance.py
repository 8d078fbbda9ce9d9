"""Step importance: how much each weight of the base matters for the past, cached.

The estimate depends on the base's weights, the past examples looked at, the estimator and their
number, and on nothing else: those make the cache's key, so that an update with another learning
rate, or run again, estimates nothing twice.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from rehearsal import window
from rehearsal.manifest import Manifest, plan
from rehearsal.policies import Past
from store.ledger import Update
from updater.steps.rehearse import past_versions
from updater.workspace import Workspace

NEEDS_IMPORTANCE = ("ewc",)


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """The base's importance is in the cache, unless the method holds weights without one."""
    if not needed(workspace):
        return {"estimator": None, "num_examples": 0}
    return {
        "estimator": workspace.settings.regularizer.estimator,
        "num_examples": _sample(workspace, update).num_examples,
        "digest": cached(workspace, update).stem,
    }


def needed(workspace: Workspace) -> bool:
    """Whether the configured regularizer weighs parameters by importance."""
    regularizer = workspace.settings.regularizer
    return regularizer.method in NEEDS_IMPORTANCE and regularizer.strength > 0


def cached(workspace: Workspace, update: Update) -> Path:
    """The file with the importance of this update's base, estimated now if it isn't there."""
    path = _path(workspace, update)
    if not path.exists():
        _estimate(workspace, update, _sample(workspace, update), path)
    return path


def _path(workspace: Workspace, update: Update) -> Path:
    assert update.base is not None, "only an update of a base holds weights"
    regularizer = workspace.settings.regularizer
    key = {
        "checkpoint": workspace.ledger.model_version(update.base).digest,
        "data": _sample(workspace, update).digest,
        "estimator": regularizer.estimator,
        "num_examples": regularizer.num_examples,
        "max_length_tokens": workspace.settings.model.max_length_tokens,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return workspace.root / "cache" / "importance" / f"{digest}.safetensors"


def _sample(workspace: Workspace, update: Update) -> Manifest:
    """The past examples that the Fisher is estimated on: a uniform sample, always the same."""
    past = [
        Past(
            period=period,
            dataset_version=version,
            num_train=workspace.ledger.dataset_version(version).num_train,
            ordinal=workspace.periods.ordinal(period),
            accuracy=None,
            best_accuracy=None,
        )
        for period, version in past_versions(workspace, update).items()
    ]
    past.sort(key=lambda p: p.ordinal)
    return plan(past, policy="uniform", budget=workspace.settings.regularizer.num_examples)


def _estimate(workspace: Workspace, update: Update, sample: Manifest, path: Path) -> None:
    from regularizers import importance as weights
    from updater.nemotron import checkpoint
    from updater.train.encode import encode
    from updater.train.importance import estimate

    assert update.base is not None
    base = workspace.ledger.model_version(update.base)
    model, tokenizer = checkpoint.load(workspace.checkpoints.local(base.digest))
    examples = window.load(
        sample, lambda version: workspace.datasets.path(version, "train.parquet")
    )
    estimated = estimate(
        model,
        encode(tokenizer, examples, max_length_tokens=workspace.settings.model.max_length_tokens),
        estimator=workspace.settings.regularizer.estimator,
        checkpoint_digest=base.digest,
        data_digest=sample.digest,
        progress=workspace.progress,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save(estimated, path)
