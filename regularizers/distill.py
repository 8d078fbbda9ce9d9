"""Holds a model to what another one answers: logits kept compactly, and the divergence from them.

Of each token's answer the largest k probabilities are kept with their places in the vocabulary,
and all others as one outcome, the tail: k + 1 outcomes that sum to one. The Kullback-Leibler
divergence over them is never more than that over the whole vocabulary, for to merge outcomes can
only lose information, and equals it where nothing is merged. Chosen, not derived, where the papers
keep all logits: with a vocabulary of 131,072 those of one token take 512 KB. Knows neither the
model nor the data. The objectives that distil call it (`updater.train.distilled`).

Shape suffixes: c tokens, v vocabulary, k kept, o outcomes (k + 1, or v where all are kept).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LEAST = float(torch.finfo(torch.float16).min)
"""What float16 can hold: a log-probability below it is kept as this, not as minus infinity."""


@dataclass(frozen=True)
class Answers:
    """What a model answers at c tokens, softened by `temperature`.

    `kept_ck`: which of the vocabulary are kept, int16 where that is enough, else int32. `logs_co`:
    their log-probabilities at that temperature, and last the tail's; float16. So a token takes
    6 k + 2 bytes with a vocabulary above 32,768, and 4 k + 2 below.
    """

    kept_ck: Tensor
    logs_co: Tensor
    temperature: float

    def at(self, places: Tensor) -> "Answers":
        """The answers at these tokens, in this order."""
        return replace(self, kept_ck=self.kept_ck[places], logs_co=self.logs_co[places])

    def to(self, device: torch.device | str) -> "Answers":
        """The answers on `device`."""
        return replace(self, kept_ck=self.kept_ck.to(device), logs_co=self.logs_co.to(device))


def joined(parts: Sequence[Answers]) -> Answers:
    """The answers of all parts, one after the other; of one vocabulary, temperature and k."""
    return replace(
        parts[0],
        kept_ck=torch.cat([part.kept_ck for part in parts]),
        logs_co=torch.cat([part.logs_co for part in parts]),
    )


@torch.no_grad()
def condensed(logits_cv: Tensor, *, temperature: float, top_k: int) -> Answers:
    """The answers that these logits are, on their device.

    The tail's mass is that at `temperature`: softened, the rest weighs more.

    Raises:
        ValueError: `temperature` is not finite and above 0, or `top_k` is below 1.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}: must be finite and above 0")
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}: must be at least 1")
    vocabulary_size = logits_cv.shape[1]
    kept_ck = logits_cv.topk(min(top_k, vocabulary_size), dim=1).indices
    logs_co = _outcomes(logits_cv, kept_ck, temperature).clamp(min=LEAST)
    return Answers(kept_ck.to(_place(vocabulary_size)), logs_co.half(), temperature)


def divergence(answers: Answers, logits_cv: Tensor) -> Tensor:
    """T^2 * KL(answers || softmax(logits / T)) of each token over its outcomes: nats, float32.

    T is the answers' temperature. Its square keeps the gradient's size the same whatever T is
    (Hinton, Vinyals & Dean 2015, arXiv 1503.02531, section 2.1). Differentiable by the logits.

    Raises:
        ValueError: another number of tokens than there are answers.
    """
    if len(logits_cv) != len(answers.kept_ck):
        raise ValueError(f"{len(logits_cv)} tokens have {len(answers.kept_ck)} answers")
    ours_co = _outcomes(logits_cv, answers.kept_ck.long(), answers.temperature)
    # What float16 rounded off is shared among the outcomes, so that they sum to one again.
    theirs_co = answers.logs_co.float().log_softmax(1)
    return answers.temperature**2 * (theirs_co.exp() * (theirs_co - ours_co)).sum(1)


def _outcomes(logits_cv: Tensor, kept_ck: Tensor, temperature: float) -> Tensor:
    """logs_co, float32: the kept ones' log-probabilities, and the tail's if there is one."""
    logs_cv = (logits_cv.float() / temperature).log_softmax(1)
    logs_ck = logs_cv.gather(1, kept_ck)
    if kept_ck.shape[1] == logits_cv.shape[1]:
        return logs_ck
    # Not log(1 - sum): where the kept ones have nearly all the mass, that has no digits left.
    rest_c1 = logs_cv.scatter(1, kept_ck, -math.inf).logsumexp(1, keepdim=True)
    return torch.cat([logs_ck, rest_c1], dim=1)


def _place(vocabulary_size: int) -> torch.dtype:
    return torch.int16 if vocabulary_size <= 2**15 else torch.int32
