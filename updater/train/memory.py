"""What a model keeps of its updates, for the next one to be held by: one immutable value.

Chooses nothing: the configuration names the method, `regularizers.methods` says what that is.
Studies carry it from update to update; the train step of `updater.pipeline` rebuilds it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers.anchor import NoAnchor, QuadraticAnchor, Regularizer
from regularizers.consolidate import Held
from regularizers.formats import Weight, kept
from regularizers.methods import Method, method_of
from regularizers.path import share
from regularizers.scale import scaled
from updater.settings import RegularizerSettings
from updater.train.encode import Encoded, select
from updater.train.fit import Fit
from updater.train.guards import Guards
from updater.train.importance import estimate, overflow_told
from updater.train.lesson import Lesson
from updater.train.objectives import objective_for

SAMPLE_SEED = 0
"""Of the examples that importance is estimated on: any will do, so that all runs agree."""


@dataclass(frozen=True)
class Memory:
    """`held`: None where the model has learnt nothing yet; then nothing guards its first lesson.
    With nothing in it where the method holds no weights."""

    held: Held | None = None

    def guards(
        self,
        settings: RegularizerSettings,
        model: NemotronHForCausalLM,
        lesson: Lesson,
        *,
        progress: bool = False,
    ) -> Guards:
        """What keeps the past while `model`, as it stands now, learns `lesson`. `progress`: of the
        forward passes that a distilling method takes now, on stderr.

        Raises:
            UpdateError: what is held is no number.
        """
        if self.held is None:
            return Guards()
        objective = objective_for(settings, model, lesson, progress=progress)
        return Guards(self._anchor(settings, model), objective)

    def _anchor(self, settings: RegularizerSettings, model: NemotronHForCausalLM) -> Regularizer:
        if self.held is None or not self.held.importance or settings.penalty_strength == 0:
            return NoAnchor()
        strength = settings.penalty_strength
        with overflow_told():  # of what a training recorded, or of terms together
            anchor = QuadraticAnchor(self.held.anchor, self.held.importance, strength)
        anchor.settle(dict(model.named_parameters()), offload=settings.offload)
        return anchor

    def after(
        self,
        settings: RegularizerSettings,
        model: NemotronHForCausalLM,
        done: Fit,
        *,
        past: Encoded,
        newest: Encoded,
        precision: str = "32-true",
    ) -> "Memory":
        """What is kept once `model` has learnt `newest`.

        Args:
            settings: the method, of which this memory is too.
            model: as it is now.
            done: what `fit` returned of this update.
            past: a uniform sample of all that was ever learnt, `newest` too: what importance is
                estimated on where the newest term has to hold everything.
            newest: the train examples of this update's new period.
            precision: of the passes that importance is estimated by, as of the training.

        Raises:
            UpdateError: as `estimate`.
        """
        method = method_of(settings.method, settings.terms)
        if method is None:
            return Memory(Held({}, {}))
        examples = {"past": past, "newest": newest}[method.looks_at]
        importance = _importance(method, settings, model, done, examples, precision)
        importance = scaled(importance, settings.scale)
        term = Held({name: p.detach().clone() for name, p in model.named_parameters()}, importance)
        return Memory(method.consolidate(self.held, term, decay=settings.decay))

    @classmethod
    def of(cls, settings: RegularizerSettings, terms: Iterable[Held]) -> "Memory":
        """What is kept once updates of these terms were learnt, oldest first; without any, nothing
        is held of what was learnt.

        A term without importance is an update of which nothing is to be held. Weights are not
        copied.
        """
        method, held = method_of(settings.method, settings.terms), Held({}, {})
        if method is None:
            return cls(held)
        for number, term in enumerate(terms):
            before = held if number else None
            term = Held(term.anchor, scaled(term.importance, settings.scale))
            held = method.consolidate(before, term, decay=settings.decay)
        return cls(held)


def trace_of(settings: RegularizerSettings) -> str:
    """What `fit` has to record (its `trace`) for `Memory.after` to know what the update taught."""
    method = method_of(settings.method, settings.terms)
    return "" if method is None else method.trace(settings.estimator)


def traced(settings: RegularizerSettings, done: Fit) -> Mapping[str, Tensor]:
    """The importance that this training recorded.

    Raises:
        ValueError: it recorded nothing: `fit` was not asked for `trace_of(settings)`.
    """
    if not done.trace:
        raise ValueError(f"the training recorded nothing: ask for fit's {trace_of(settings)!r}")
    if trace_of(settings) == "path":
        return share(done.trace, done.moved, settings.damping)
    return done.trace


def ones(model: NemotronHForCausalLM) -> dict[str, Tensor]:
    """Every weight matters alike; the memory of one number."""
    one = torch.ones((), device=model.device)
    return {name: one.expand(p.shape) for name, p in model.named_parameters()}


def sample(examples: Encoded, most: int) -> Encoded:
    """At most so many of the examples, uniformly, always the same."""
    if len(examples) <= most:
        return examples
    chosen = np.random.default_rng(SAMPLE_SEED).choice(len(examples), most, replace=False)
    return select(examples, np.sort(chosen))


def _importance(
    method: Method,
    settings: RegularizerSettings,
    model: NemotronHForCausalLM,
    done: Fit,
    examples: Encoded,
    precision: str,
) -> Mapping[str, Weight]:
    """In the format that is configured; ones need no more memory than one number in any."""
    if method.source == "ones":
        return ones(model)
    if method.trace(settings.estimator):
        return kept(traced(settings, done), settings.format)
    estimated = estimate(
        model,
        sample(examples, settings.num_examples),
        estimator="mas" if method.source == "mas" else settings.estimator,
        checkpoint_digest="",
        data_digest="",
        form=settings.format,
        precision=precision,
        progress=False,
    )
    return estimated.tensors
