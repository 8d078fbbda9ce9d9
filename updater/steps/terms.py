"""Which terms an update is held by, what each is found from, and where its importance lies.

A term is a version of the base's line with how much each weight mattered then. Nothing is
estimated or read here. Called by the importance step, which finds, and the train step, which keeps
what only a training can tell.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rehearsal.manifest import Manifest
from store.errors import NotFoundError
from store.ledger import ModelVersion, Update
from updater.errors import InputError
from updater.steps.past import past_of, past_versions, uniform_sample
from updater.steps.start import Start, is_compressed, line
from updater.workspace import Workspace

if TYPE_CHECKING:
    from regularizers.methods import Method

log = logging.getLogger("updater")

TRACE_FILE = "importance.safetensors"
"""The one file of a trace in the checkpoint store."""


@dataclass(frozen=True)
class Term:
    """The weights of `version`, None of what is no version yet, and what they were to be held for.

    `sample`: the examples that its importance is estimated on, a uniform sample, always the same;
    without any, nothing of this version's is held. `traced`: its importance was recorded by the
    training, so that it can't be estimated. `file`: where it lies; None: no training recorded it.
    `digest`: what names it in the cache, or a trace in the checkpoint store. `weights`: the digest
    of the checkpoint with the weights, which may be those of before the version was compressed.
    """

    version: ModelVersion | None
    weights: str
    sample: Manifest
    digest: str
    file: Path | None
    traced: bool


def method_of(workspace: Workspace) -> "Method | None":
    """How the configured method comes to what it holds; None: no weights are held."""
    from regularizers import methods

    regularizer = workspace.settings.regularizer
    return methods.method_of(regularizer.method, regularizer.terms)


def weighs(workspace: Workspace, update: Update) -> bool:
    """Whether the update weighs parameters by importance.

    Not where new data of the only period that the base has learnt takes the place of the old:
    then there is no past to hold on to.
    """
    method = method_of(workspace)
    strength = workspace.settings.regularizer.penalty_strength
    if method is None or method.source == "ones" or strength == 0:
        return False
    return bool(past_versions(workspace, update))


def terms_of(workspace: Workspace, update: Update) -> list[Term]:
    """The terms that hold this update, oldest first; the last is of its base. Raises: as
    `terms_on`.
    """
    assert update.base is not None, "only an update of a base holds weights"
    return terms_on(workspace, update.base, update.period)


def check_recorded(workspace: Workspace, base: str, period: str) -> None:
    """What only trainings can tell of the weights that an update of `period` on `base` is held by,
    they have recorded. Asked before the update is opened, so that nothing is begun in vain.

    Raises:
        InputError: the base's has not.
    """
    regularizer = workspace.settings.regularizer
    if not regularizer.is_recorded or regularizer.penalty_strength == 0:
        return
    if past_of(workspace, base, period):
        terms_on(workspace, base, period)


def terms_on(workspace: Workspace, base: str, period: str) -> list[Term]:
    """The terms that hold an update of `period` on version `base`, oldest first; the last is of it.

    One, of all the past, or one for each version of the base's line, of what that version learnt:
    the method says. In neither case of the period that is learnt again now. Where an update began
    at compressed weights, the line begins there too, and these are held for all that they know:
    older weights have other shapes. Where only a training can tell, the line begins after the last
    version whose training wasn't asked, or whose weights were compressed after it.

    Raises:
        InputError: only a training can tell, and the base's was not asked, or is compressed.
    """
    method = method_of(workspace)
    assert method is not None, "only for a method that weighs"
    begins = line(workspace, base)
    if method.looks_at == "past":
        terms = [_term(workspace, next(begins), past_of(workspace, base, period))]
    else:
        terms = [_term(workspace, at, _taught(workspace, at, period)) for at in begins]
    if terms[0].traced:
        terms = _recorded(workspace, terms)
    return terms[::-1]


def trace_name(workspace: Workspace) -> str:
    """What a training has to have recorded for the present settings.

    Under another damping it is another one: SI's share has it in it.
    """
    method = method_of(workspace)
    assert method is not None, "only for a method that records"
    regularizer = workspace.settings.regularizer
    name = method.trace(regularizer.estimator)
    return f"{name}-{regularizer.damping!r}" if name == "path" else name


def _trace(workspace: Workspace, at: Start, sample: Manifest) -> Term:
    """Of the version's training, from the checkpoint store, where its own result names it. One
    that was deleted there is as good as never recorded, and so is that of weights which were
    compressed after it: it is of those of before."""
    version, weights = at
    nothing = Term(version, weights, sample, "", None, traced=True)
    if is_compressed(workspace, at):
        return nothing
    step = None if version.update is None else workspace.ledger.step(version.update, "train")
    kept = {} if step is None else step.result.get("trace", {})
    if kept.get("name") != trace_name(workspace) or not sample.num_examples:
        return nothing
    try:
        folder = workspace.checkpoints.local(kept["digest"])
    except NotFoundError as error:
        log.warning("version %s: what its training recorded is gone: %s", version.id, error)
        return nothing
    return Term(version, weights, sample, kept["digest"], folder / TRACE_FILE, traced=True)


def estimator_of(workspace: Workspace) -> str:
    """What an estimate is made by, as users know it: the method's own, or the configured one."""
    method = method_of(workspace)
    assert method is not None, "only for a method that weighs"
    if method.source == "fisher":
        return workspace.settings.regularizer.estimator
    return "si" if method.source == "path" else method.source


def _term(workspace: Workspace, at: Start, datasets: Mapping[str, str]) -> Term:
    method = method_of(workspace)
    assert method is not None, "only for a method that weighs"
    regularizer = workspace.settings.regularizer
    if method.trace(regularizer.estimator):
        sample = uniform_sample(workspace, datasets, regularizer.num_examples)
        return _trace(workspace, at, sample)
    return estimated(workspace, at.digest, datasets, version=at.version)


def estimated(
    workspace: Workspace,
    weights: str,
    datasets: Mapping[str, str],
    *,
    version: ModelVersion | None = None,
) -> Term:
    """The weights of a checkpoint, as they matter for these dataset versions (by period), by a
    method that estimates."""
    regularizer = workspace.settings.regularizer
    sample = uniform_sample(workspace, datasets, regularizer.num_examples)
    key = {
        "checkpoint": weights,
        "data": sample.digest,
        "estimator": estimator_of(workspace),
        "num_examples": regularizer.num_examples,
        "max_length_tokens": workspace.settings.model.max_length_tokens,
        "routers": workspace.settings.training.train_routers,
    }
    training = workspace.settings.training
    if training.adapt == "lora":
        key["adapt"] = "lora, experts" if training.lora_experts else "lora"
    if training.precision == "bf16-mixed":
        key["precision"] = training.precision
    if training.train_thinking:
        key["thinking"] = True
    if regularizer.format != "float32":  # which had no name in caches of before there were formats
        key["format"] = regularizer.format
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = workspace.root / "cache" / "importance" / f"{digest}.safetensors"
    return Term(version, weights, sample, digest, file, traced=False)


def _taught(workspace: Workspace, at: Start, again: str) -> dict[str, str]:
    """Period -> dataset version of what this version learnt on top of its base, less `again`; of
    compressed weights all that was learnt, for nothing older is held beside them."""
    version = at.version
    before: dict[str, str] = {}
    if version.base is not None and not is_compressed(workspace, at):
        before = workspace.ledger.model_version(version.base).dataset_versions
    return {
        period: dataset
        for period, dataset in version.dataset_versions.items()
        if before.get(period) != dataset and period != again
    }


def _recorded(workspace: Workspace, terms: list[Term]) -> list[Term]:
    """The newest terms without a gap, of those given newest first."""
    missing = (n for n, t in enumerate(terms) if t.sample.num_examples and t.file is None)
    found = terms[: next(missing, len(terms))]
    if any(term.sample.num_examples for term in found):
        return found
    without = terms[len(found)]
    assert without.version is not None, "what a training recorded is a version's"
    if is_compressed(workspace, Start(without.version, without.weights)):
        raise InputError(
            f"version {without.version.id} has no importance for regularizer.method ="
            f" {workspace.settings.regularizer.method!r}: it is compressed",
            "what a training records is of the weights that it came to, and the update begins at"
            " those that were made of them",
            'take compression.start = "uncompressed"; or run one update with'
            " regularizer.strength = 0 that is not compressed, which is not held and records, and"
            ' deploy it; or take regularizer.method = "mas", or "ewc" with regularizer.estimator ='
            ' "empirical"',
        )
    raise InputError(
        f"version {without.version.id} has no importance for regularizer.method ="
        f" {workspace.settings.regularizer.method!r}: its training has not recorded"
        f" {_recording(workspace)}",
        "what a training records is kept only if the settings asked for it then, with the same"
        " damping; an adopted version has none",
        "run one update with regularizer.strength = 0, which is not held and records, and deploy"
        " it; or take"
        ' regularizer.method = "mas", or "ewc" with regularizer.estimator = "empirical"',
    )


def _recording(workspace: Workspace) -> str:
    """What a training has to have recorded, as users know it."""
    regularizer = workspace.settings.regularizer
    if regularizer.method == "si":
        return f"SI's path integral with regularizer.damping = {regularizer.damping!r}"
    return "what Adam has accumulated"
