"""Step importance: how much each weight of the base matters for the past, cached.

The estimate depends on the base's weights, the past examples looked at, the estimator and their
number, and on nothing else: those make the cache's key, so that an update with another learning
rate, or run again, estimates nothing twice.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rehearsal import window
from rehearsal.manifest import Manifest, plan
from rehearsal.policies import Past
from store.ledger import Update
from updater.steps.rehearse import past_versions
from updater.stopwatch import Stopwatch
from updater.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from regularizers.importance import Importance

log = logging.getLogger("updater")

NEEDS_IMPORTANCE = ("ewc",)


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """The base's importance is in the cache, unless nothing is to be weighed by one."""
    if not needed(workspace, update):
        return {"estimator": None, "num_examples": 0, "compute_seconds": 0.0}
    watch = Stopwatch()
    found = cached(workspace, update, watch)
    return {
        "estimator": workspace.settings.regularizer.estimator,
        "num_examples": _sample(workspace, update).num_examples,
        "digest": found.stem,
        "compute_seconds": watch.seconds,
    }


def needed(workspace: Workspace, update: Update) -> bool:
    """Whether the update weighs parameters by importance.

    Not where new data of the only period that the base has learnt takes the place of the old:
    then there is no past to hold on to.
    """
    regularizer = workspace.settings.regularizer
    weighs = regularizer.method in NEEDS_IMPORTANCE and regularizer.strength > 0
    return weighs and bool(past_versions(workspace, update))


def cached(workspace: Workspace, update: Update, watch: Stopwatch | None = None) -> Path:
    """The file with the importance of this update's base, estimated now if it isn't there.

    `watch` is told how long the estimate took.
    """
    path = _path(workspace, update)
    if not path.exists():
        _estimate(workspace, update, path, watch or Stopwatch())
    return path


def load(workspace: Workspace, update: Update, parameters: "Mapping[str, Tensor]") -> "Importance":
    """The importance of this update's base, of the parameters' names and shapes.

    A broken file of the cache is removed and estimated again.
    """
    from regularizers import importance as weights

    path = cached(workspace, update)
    try:
        return weights.load(path, parameters)
    except ValueError as error:
        log.warning("broken in the cache, so removed and estimated again: %s", error)
        path.unlink()
    return weights.load(cached(workspace, update), parameters)


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


def _estimate(workspace: Workspace, update: Update, path: Path, watch: Stopwatch) -> None:
    from regularizers import importance as weights
    from updater.nemotron import checkpoint
    from updater.train.encode import encode
    from updater.train.importance import estimate

    assert update.base is not None
    base = workspace.ledger.model_version(update.base)
    sample = _sample(workspace, update)
    model, tokenizer = checkpoint.load(workspace.checkpoints.local(base.digest))
    examples = window.load(
        sample, lambda version: workspace.datasets.path(version, "train.parquet")
    )
    longest = workspace.settings.model.max_length_tokens
    with watch:
        estimated = estimate(
            model,
            encode(tokenizer, examples, max_length_tokens=longest),
            estimator=workspace.settings.regularizer.estimator,
            checkpoint_digest=base.digest,
            data_digest=sample.digest,
            progress=workspace.progress,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save(estimated, path)
