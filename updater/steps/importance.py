"""Step importance: how much each weight of the base's line matters for the past, cached.

An estimate depends on the version's weights, the past examples looked at, the estimator, their
number and the format that it is kept in, and on nothing else: those make the cache's key, so that
an update with another learning rate, or run again, estimates nothing twice. What a training
recorded is not in the cache, for it can't be had again: `updater.steps.traces` keeps it.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from store.ledger import Update
from updater.errors import InputError
from updater.steps import room
from updater.steps.start import start_at
from updater.steps.terms import Term, estimator_of, method_of, terms_of, weighs
from updater.steps.weigh import estimate
from updater.stopwatch import Stopwatch
from updater.workspace import Workspace

if TYPE_CHECKING:
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

    from regularizers.consolidate import Held
    from regularizers.formats import Weight
    from regularizers.importance import Importance
    from updater.launch.task import TermFiles
    from updater.train.memory import Memory

log = logging.getLogger("updater")

Read = TypeVar("Read")

_CURE = (
    "bring it back from a copy; or delete its folder, and what was learnt up to there is no longer"
    " held"
)
"""Of what a training recorded, which can't be had again."""


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """Every importance that will hold the update lies on the disk.

    Raises:
        InputError: it can't be estimated, and no training recorded it; or as `room.check`.
        UpdateError: the base's weights have none, they diverge.
    """
    if not weighs(workspace, update):
        return {"estimator": None, "num_examples": 0, "compute_seconds": 0.0}
    room.check(workspace, update)
    watch = Stopwatch()
    terms = terms_of(workspace, update)
    for term in terms:
        find(workspace, term, watch)
    return {
        "estimator": estimator_of(workspace),
        "num_examples": sum(term.sample.num_examples for term in terms),
        "num_terms": len(terms),
        "digest": terms[-1].digest,
        **_cost(workspace, terms),
        "compute_seconds": watch.seconds,
    }


def _cost(workspace: Workspace, terms: Sequence[Term]) -> dict[str, Any]:
    """What is kept in memory to hold the update, one term whatever their number, beside the base's
    weights; both as on disk, where names and shapes are a few bytes more."""
    base = workspace.checkpoints.local(terms[-1].weights)
    return {
        "format": workspace.settings.regularizer.format,
        "num_bytes": max(t.file.stat().st_size for t in terms if t.file and t.sample.num_examples),
        "weights_bytes": sum(shard.stat().st_size for shard in base.glob("*.safetensors")),
    }


def memory(workspace: Workspace, update: Update, model: "NemotronHForCausalLM") -> "Memory":
    """What the base's line taught, for `model` to be held by: the base's, or a first one's.

    A broken file of the cache is removed and estimated again.

    Raises:
        InputError: what a training recorded is missing or broken.
    """
    from regularizers.consolidate import Held
    from updater.train.memory import Memory, ones

    if update.base is None:
        return Memory()
    settings, method = workspace.settings.regularizer, method_of(workspace)
    terms: Iterable[Held] = ()
    if method is not None and method.source == "ones":
        terms = [Held(dict(model.named_parameters()), ones(model))]
    elif weighs(workspace, update):
        terms = _held(workspace, update, model)
    return Memory.of(settings, terms)


def files(workspace: Workspace, update: Update) -> "tuple[TermFiles, ...] | None":
    """Where all that lies of which `memory` makes what holds the update, for processes that know
    no store; None: nothing was learnt before. Each file is whole.

    Raises:
        InputError: as `memory`.
    """
    from regularizers import stored
    from updater.launch.task import TermFiles

    if update.base is None:
        return None
    if not weighs(workspace, update):
        return ()
    found = []
    for term in terms_of(workspace, update):
        if term.sample.num_examples:
            _sound(workspace, term, stored.verify)
        folder = workspace.checkpoints.local(term.weights)
        found.append(TermFiles(folder, term.file if term.sample.num_examples else None))
    return tuple(found)


def _held(workspace: Workspace, update: Update, model: "NemotronHForCausalLM") -> "Iterator[Held]":
    """One term after the other, oldest first, each with its weights, or with the model's where no
    older ones count."""
    from regularizers.consolidate import Held
    from updater.nemotron.dtypes import load_aside

    method = method_of(workspace)
    assert update.base is not None, "only an update of a base is held"
    assert method is not None, "only by a method that weighs"
    settings, begins = workspace.settings.regularizer, start_at(workspace, update.base).digest
    for term in terms_of(workspace, update):
        weights = model
        if term.weights != begins and method.reads_older_weights:
            weights = load_aside(workspace.checkpoints.local(term.weights))
        found: dict[str, Weight] = {}
        if term.sample.num_examples:
            # What a training recorded was perhaps kept in another format.
            found |= _load(workspace, term).in_format(settings.format).tensors
        yield Held({n: p.detach() for n, p in weights.named_parameters()}, found)


def checked(workspace: Workspace, term: Term, watch: Stopwatch) -> Path:
    """Where the term's importance lies: it is whole, of the term's weights, and says how many
    tokens came to each expert, which those of older releases did not. Else it is estimated again.

    Raises:
        UpdateError: the weights have none, they diverge.
    """
    from regularizers import stored

    assert term.file is not None, "only for what is estimated"
    find(workspace, term, watch)
    _sound(workspace, term, stored.verify)
    if "tokens" not in stored.told(term.file):
        term.file.unlink()
        find(workspace, term, watch)
    return term.file


def _load(workspace: Workspace, term: Term) -> "Importance":
    from regularizers import importance as weights

    return _sound(workspace, term, weights.load)


def _sound(workspace: Workspace, term: Term, read: Callable[[Path], Read]) -> Read:
    """What is read of the term's importance. A broken file of the cache is removed and estimated
    again.

    Raises:
        InputError: what a training recorded is missing or broken, or it is of other weights than
            those that are held.
    """
    from regularizers.stored import told

    assert term.file is not None, "a term without a record is not among an update's"
    find(workspace, term, Stopwatch())
    try:
        checkpoint, sound = str(told(term.file)["checkpoint_digest"]), read(term.file)
    except ValueError as error:
        if term.traced:
            raise InputError(
                str(error),
                "what a training recorded can't be estimated again",
                _CURE,
            ) from error
        log.warning("broken in the cache, so removed and estimated again: %s", error)
        term.file.unlink()
        find(workspace, term, Stopwatch())
        return read(term.file)
    if checkpoint != term.weights:
        raise InputError(
            f"{term.file}: the importance of checkpoint {checkpoint[:16]}, and"
            f" {term.weights[:16]} is held",
            "weights are held by how much they themselves mattered: an anchor and its importance"
            " are of one checkpoint",
            _CURE if term.traced else "delete the file: an estimate is made again",
        )
    return sound


def find(workspace: Workspace, term: Term, watch: Stopwatch) -> None:
    """The term's importance is on the disk, estimated now if it isn't there."""
    if term.file is None or term.file.exists() or term.traced or not term.sample.num_examples:
        return
    estimate(workspace, term, term.file, watch)
