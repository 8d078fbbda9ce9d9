"""What a model answers to the examples of a lesson, kept compactly before it learns them.

Ties the model and its tokens to `regularizers.distill`, which knows neither. Called by
`updater.train.distilled`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers.distill import Answers, condensed, joined
from updater.progress import Progress
from updater.settings import RegularizerSettings
from updater.train.encode import Encoded, collate
from updater.train.likelihood import completion_logits

BATCH = 32
"""Examples a forward pass, of like length. Chosen, not derived: as many as are trained on at once
by default."""


class BaseAnswers:
    """The answers of `model` as it is now to these examples of `encoded`: one forward pass, in
    evaluation mode and in the precision of its weights.

    They are in the host's memory, as large as `regularizers.distill.Answers` says for each
    completion token: what rehearsal's budget and `settings.top_k` allow.
    """

    def __init__(
        self,
        model: NemotronHForCausalLM,
        encoded: Encoded,
        examples: np.ndarray,
        *,
        settings: RegularizerSettings,
        progress: bool,
    ) -> None:
        order = examples[np.argsort(encoded.lengths[examples], kind="stable")]
        self._sizes = encoded.completion_lengths
        self._starts = np.zeros(len(encoded), np.int64)
        self._starts[order] = np.cumsum(self._sizes[order]) - self._sizes[order]

        def answers(logits_cv: torch.Tensor) -> Answers:
            kept = condensed(logits_cv, temperature=settings.temperature, top_k=settings.top_k)
            return kept.to("cpu")

        # The first part has no token, so that no examples are a case like any other.
        parts = [answers(torch.empty(0, model.config.vocab_size))]
        model.eval()
        with (
            torch.no_grad(),
            Progress("answers to hold on to", len(order), shown=progress) as shown,
        ):
            for first in range(0, len(order), BATCH):
                some = order[first : first + BATCH]
                batch = collate(encoded, some).to(model.device)
                parts.append(answers(completion_logits(model, batch)[0]))
                shown.update(len(some))
        self._answers = joined(parts)

    def of(self, examples: Sequence[int]) -> Answers:
        """The answers to these examples' completion tokens, example after example."""
        starts, sizes = self._starts[list(examples)], self._sizes[list(examples)]
        # Counting on from each example's start: its place in the result plus its own shift.
        shifts = starts - (np.cumsum(sizes) - sizes)
        places = np.arange(sizes.sum()) + np.repeat(shifts, sizes)
        return self._answers.at(torch.from_numpy(places))
