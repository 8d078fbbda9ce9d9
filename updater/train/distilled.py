"""The likelihood, and beside it the base's own answers held on to: LwF, DER, DER++.

The answers are those of the model before the update, softened by a temperature and kept compactly
(`updater.train.answers`); the distance to them is the Kullback-Leibler divergence of
`regularizers.distill`. Called by `updater.train.learner`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers.distill import divergence
from updater.settings import RegularizerSettings
from updater.train.answers import BaseAnswers
from updater.train.lesson import Lesson
from updater.train.likelihood import completion_logits, per_example
from updater.train.objective import Objected
from updater.train.schedule import MicroBatch

Part = Callable[[int], slice]


def _all(_num_new: int) -> slice:
    return slice(None)


def _new(num_new: int) -> slice:
    return slice(None, num_new)


def _rehearsed(num_new: int) -> slice:
    return slice(num_new, None)


class Recipe(NamedTuple):
    """Which examples, of so many new ones and then the rehearsed, have their completions `taught`,
    and to which the base's answers are `held`."""

    taught: Part
    held: Part


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "lwf": Recipe(taught=_all, held=_new),
        "der": Recipe(taught=_new, held=_rehearsed),
        "der++": Recipe(taught=_all, held=_rehearsed),
    }
)
"""method -> what is taught and what is held.

`lwf`, learning without forgetting: the answers to the *new* examples are held (Li & Hoiem 2016,
arXiv 1606.09282, eq. 3; for language models KL(old || new) at T = 2 and weight 1, as in
apple/ml-tic-lm). `der`, dark experience replay: those to the rehearsed ones are held in place of
teaching their completions; `der++`: both (Buzzega et al. 2020, arXiv 2004.07211, eqs. 4 to 6).
There the distance is the squared error of logits, which stands in for the divergence (their
section 3.1); here it is the divergence itself, over k + 1 outcomes. Their DER++ draws a second
batch of memory to teach its labels; here the same rehearsed examples are taught and held. And
their answers are those of the moment when an example was first seen; here they are the base's, at
the start of the update, so that no history of answers has to be stored beside the data."""

DISTILLED = Recipe(taught=_all, held=_all)
"""Of no method of updates, where the base has to unlearn: how a compressed model recovers, held to
the uncompressed one on every example."""


class Distilled:
    """The mean negative log-likelihood of the taught examples, plus `settings.penalty_strength`
    times the divergence from the base's answers to the held ones.

    Both are sums over tokens divided by all completion tokens of the optimizer step: at strength 1
    one token held weighs as much as one token taught. `model` must be the base: its answers are
    taken now. Where no example is held, this is the likelihood of the taught. `recipe`: in the
    place of the method's own.
    """

    def __init__(
        self,
        settings: RegularizerSettings,
        model: NemotronHForCausalLM,
        lesson: Lesson,
        *,
        progress: bool,
        recipe: Recipe | None = None,
    ) -> None:
        self._recipe = recipe or RECIPES[settings.method]
        self._strength = settings.penalty_strength
        held = np.arange(len(lesson.examples))[self._recipe.held(lesson.num_new)]
        self._answers = BaseAnswers(
            model, lesson.examples, held, settings=settings, progress=progress
        )
        self.fingerprint = (
            f"{settings.method} {self._strength!r} {settings.temperature!r} {settings.top_k}"
            + (" every example" if recipe is DISTILLED else "")
        )

    def loss(self, model: NemotronHForCausalLM, batch: MicroBatch) -> Objected:
        """Both parts summed over the micro-batch, divided by its normaliser."""
        logits_cv, tokens_c, examples_c = completion_logits(model, batch.batch)
        losses_c = functional.cross_entropy(logits_cv, tokens_c, reduction="none")
        sums_b = per_example(losses_c, examples_c, len(batch.examples))
        held = self._recipe.held(batch.num_new)
        held_b = torch.zeros(len(batch.examples), dtype=torch.bool, device=examples_c.device)
        held_b[held] = True
        answers = self._answers.of(batch.examples[held])
        distance_c = divergence(answers.to(logits_cv.device), logits_cv[held_b[examples_c]])
        taught = sums_b[self._recipe.taught(batch.num_new)].sum()
        total = taught + self._strength * distance_c.sum()
        return Objected(total / batch.normaliser, sums_b.detach(), batch.batch.targets_bl.sum(1))

    @torch.no_grad()
    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """No gradient is touched."""
