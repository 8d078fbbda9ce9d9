"""What is left after compression learns again what was lost: by the examples, or by what the
uncompressed model says to them.

The training is `updater.train.fit`'s. Weights that are zero stay zero. Called by
`updater.compress.engine`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from regularizers.anchor import NoAnchor
from updater.compress.matrices import is_prunable
from updater.nemotron import checkpoint
from updater.nemotron.weights import released_name
from updater.settings import CompressionSettings, RegularizerSettings, TrainingSettings
from updater.train.distilled import DISTILLED, Distilled
from updater.train.fit import Fit, fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.objective import Likelihood, Objective
from updater.train.record import Watch


def recover(
    folder: Path,
    teacher: Path,
    lesson: Lesson,
    *,
    settings: CompressionSettings,
    training: TrainingSettings,
    state: Path,
    target: Path,
    watch: Watch,
) -> Fit:
    """`target` is the compressed checkpoint `folder` after it has learnt the lesson again.

    By `settings.recovery`: "finetune" teaches the completions. "distill" holds the student beside
    that to what `teacher`, the uncompressed checkpoint, says to every example, new or rehearsed:
    the divergence of LwF (Li & Hoiem 2016, arXiv 1606.09282, eq. 3) with the old model for the
    teacher, as Minitron recovers what it prunes (Muralidharan et al. 2024, arXiv 2407.14679,
    section 3; on logits alone), at LwF's temperature and top_k of `RegularizerSettings`. At
    `settings.distill_strength` 1 a token held weighs as much as one taught.

    Args:
        state: where the run's state is kept; called again after a kill it goes on from there.

    Raises:
        UpdateError: the training diverged.
    """
    objective: Objective = Likelihood()
    if settings.recovery == "distill":
        master, _ = checkpoint.load(teacher)
        held = RegularizerSettings(method="lwf", strength=settings.distill_strength)
        objective = Distilled(held, master, lesson, progress=watch.progress, recipe=DISTILLED)
        del master
    model, _ = checkpoint.load(folder)
    training = dataclasses.replace(training, epochs=settings.recovery_epochs, adapt="full")
    guards = Guards(ZerosStay(), objective)
    done = fit(model, lesson, training=training, guards=guards, folder=state, watch=watch)
    checkpoint.export(model, folder, target)
    return done


class ZerosStay(NoAnchor):
    """Weights that are zero have no gradient: of those that compression took away none comes back.

    A weight without a gradient stays where AdamW's decay, which scales it, leaves it: at zero.
    """

    @torch.no_grad()
    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
        """Of the matrices that can lose weights."""
        for name, parameter in parameters.items():
            if parameter.grad is not None and is_prunable(released_name(name)):
                parameter.grad.masked_fill_(parameter == 0, 0)
