"""A multi-token-prediction head learns to draft for an updated backbone, which stays as it is.

NVIDIA trains its heads so after a backbone's last change (Nemotron 3 Super's report, "MTP
healing"). The head learns what the update learnt, new and rehearsed examples, by
`updater.train.fit`, as any model does. Called by the train step.

Shape suffixes: b examples of a batch, l positions, d hidden size, c completion tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.train.encode import Batch, Encoded, collate
from updater.train.likelihood import completion_logits, per_example, token_losses
from updater.train.objective import Objected
from updater.train.schedule import MicroBatch

NUM_DRAFTS = 2
"""Tokens that a head is taught, and asked, to draft one after the other: Nemotron 3 Super and Ultra
were trained with two such steps of one block's weights."""


@contextmanager
def drafting(model: NemotronHForCausalLM) -> Iterator[None]:
    """In the block nothing of `model` but its module `mtp` takes a gradient."""
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("mtp."))
    try:
        yield
    finally:
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)


class _Draft(NamedTuple):
    """The draft of one depth: `hidden_cd` stand for the completion tokens `tokens_c`, which lie at
    `places_c2` (example, position)."""

    hidden_cd: Tensor
    tokens_c: Tensor
    places_c2: Tensor


def _drafts(model: NemotronHForCausalLM, batch: Batch) -> Iterator[_Draft]:
    tokens_bl = batch.tokens_bl
    with torch.no_grad():
        states = model.model(input_ids=tokens_bl, use_cache=False)
        embedded_bld = model.model.embeddings(tokens_bl)
    hidden_bld, head = states.last_hidden_state, model.get_submodule("mtp")
    for ahead in range(1, NUM_DRAFTS + 1):
        # Position i has seen token i + ahead, and drafts the one after it.
        known_bld = embedded_bld[:, ahead:]
        if known_bld.shape[1] < 2:
            return
        hidden_bld = head(hidden_bld[:, : known_bld.shape[1]], known_bld)
        targets_bl = batch.targets_bl[:, ahead + 1 :]
        places_c2 = targets_bl.nonzero()
        places_c2[:, 1] += ahead + 1
        tokens_c = tokens_bl[:, ahead + 1 :][targets_bl]
        yield _Draft(hidden_bld[:, :-1][targets_bl], tokens_c, places_c2)


class DraftLikelihood:
    """The mean negative log-likelihood of the completions' tokens as drafts, over all depths.

    A token too near the start of its text to be drafted counts as drafted without loss.
    """

    fingerprint = f"{NUM_DRAFTS} drafts"

    def loss(self, model: NemotronHForCausalLM, batch: MicroBatch) -> Objected:
        """The sum over micro-batch and depths, divided by its normaliser and the depths."""
        sums_b = torch.zeros(len(batch.batch.tokens_bl), device=model.device)
        for draft in _drafts(model, batch.batch):
            losses_c = token_losses(model.lm_head, draft.hidden_cd, draft.tokens_c)
            sums_b = sums_b + per_example(losses_c, draft.places_c2[:, 0], len(sums_b))
        sums_b = sums_b / NUM_DRAFTS
        counts_b = batch.batch.targets_bl.sum(1)
        return Objected(sums_b.sum() / batch.normaliser, sums_b.detach(), counts_b)

    def before_step(self, parameters: object) -> None:
        """No gradient is touched."""


@torch.no_grad()
def acceptance(
    model: NemotronHForCausalLM, examples: Encoded, batch_size: int
) -> tuple[float, ...]:
    """The part of the drafts of `model.mtp` that greedy decoding would accept, for each depth, in
    [0, 1]; 0 where there is nothing to draft.

    Along the examples' own completions: drafting starts from each of their tokens, and a draft is
    accepted where the backbone, having read the text so far, says the same token, and those drafted
    before it were accepted. What a serving stack measures on the model's own answers may differ by
    where these are others.
    """
    accepted, tried = [0] * NUM_DRAFTS, [0] * NUM_DRAFTS
    for batch in _batches(examples, batch_size, model.device):
        said_bl = _said(model, batch)
        alive_bl = torch.ones_like(batch.targets_bl)
        for depth, draft in enumerate(_drafts(model, batch)):
            rows, places = draft.places_c2.unbind(1)
            agrees_c = model.lm_head(draft.hidden_cd).argmax(-1) == said_bl[rows, places]
            # The draft before of the same chain stands one place to the left.
            agrees_c &= alive_bl[rows, places - 1]
            alive_bl = torch.zeros_like(alive_bl)
            alive_bl[rows, places] = agrees_c
            # Nothing is drafted from within a prompt: its next tokens are known.
            started_c = batch.targets_bl[rows, places - depth - 1]
            accepted[depth] += int((agrees_c & started_c).sum())
            tried[depth] += int(started_c.sum())
    return tuple(a / max(t, 1) for a, t in zip(accepted, tried, strict=True))


def _batches(examples: Encoded, size: int, device: torch.device) -> Iterator[Batch]:
    for start in range(0, len(examples), size):
        yield collate(examples, np.arange(start, min(start + size, len(examples)))).to(device)


def _said(model: NemotronHForCausalLM, batch: Batch) -> Tensor:
    """said_bl: at a completion token's place what the backbone says there, greedily; else -1."""
    logits_cv, _, _ = completion_logits(model, batch)
    said_bl = torch.full_like(batch.tokens_bl, -1)
    said_bl[:, 1:][batch.targets_bl[:, 1:]] = logits_cv.argmax(-1)
    return said_bl
