"""A multi-token-prediction head learns to draft for an updated backbone, which stays as it is.

NVIDIA trains its heads so after a backbone's last change (Nemotron 3 Super's report, "MTP
healing"). The head learns what the update learnt, new and rehearsed examples, by
`updater.train.fit`, as any model does. Called by `updater.launch.draft`.

Shape suffixes: b examples of a batch, l positions, d hidden size, c completion tokens.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.train.encode import PADDING, Batch, Encoded, collate
from updater.train.likelihood import completion_hidden, greedy, per_example, token_losses
from updater.train.objective import Objected
from updater.train.portions import portions, tokens_of_a_pass
from updater.train.ranks import ALONE, Ranks
from updater.train.schedule import MicroBatch

NUM_DRAFTS = 2
"""Tokens that a head is taught, and asked, to draft one after the other: Nemotron 3 Super and Ultra
were trained with two such steps of one block's weights."""


def freeze_backbone(model: NemotronHForCausalLM) -> None:
    """Nothing of `model` but its module `mtp` takes a gradient from now on."""
    for name, parameter in model.named_parameters():
        if not name.startswith("mtp."):
            parameter.requires_grad_(False)


class _Draft(NamedTuple):
    """The draft of one depth: `hidden_cd` stand for the completion tokens `tokens_c`, which lie at
    `places_c2` (example, position)."""

    hidden_cd: Tensor
    tokens_c: Tensor
    places_c2: Tensor


def _drafts(model: NemotronHForCausalLM, batch: Batch) -> Iterator[_Draft]:
    """One after the other, always `NUM_DRAFTS`: a head in shards all processes ask as often."""
    batch = _drafted(batch)
    tokens_bl = batch.tokens_bl
    with torch.no_grad():
        states_bld = model.model(input_ids=tokens_bl, use_cache=False).last_hidden_state
        # Of a trunk in shards these are whole now, and until it is told to cut them again.
        embedded_bld = model.model.embeddings(tokens_bl)
    hidden_bld, head = states_bld, model.get_submodule("mtp")
    for ahead in range(1, NUM_DRAFTS + 1):
        # Position i has seen token i + ahead, and drafts the one after it.
        known_bld = embedded_bld[:, ahead:]
        hidden_bld = head(hidden_bld[:, : known_bld.shape[1]], known_bld)
        targets_bl = batch.targets_bl[:, ahead + 1 :]
        places_c2 = targets_bl.nonzero()
        places_c2[:, 1] += ahead + 1
        tokens_c = tokens_bl[:, ahead + 1 :][targets_bl]
        # lm_head is the backbone's, whose dtype may be a smaller one than the head's.
        hidden_cd = hidden_bld[:, :-1][targets_bl].to(states_bld.dtype)
        yield _Draft(hidden_cd, tokens_c, places_c2)


def _drafted(batch: Batch) -> Batch:
    """The same, padded to where each depth has a position that drafts, and one that is drafted."""
    missing = (0, max(NUM_DRAFTS + 2 - batch.tokens_bl.shape[1], 0))
    return replace(
        batch,
        tokens_bl=functional.pad(batch.tokens_bl, missing, value=PADDING),
        targets_bl=functional.pad(batch.targets_bl, missing, value=False),
    )


class DraftLikelihood:
    """The mean negative log-likelihood of the completions' tokens as drafts, over all depths.

    A token too near the start of its text to be drafted counts as drafted without loss.
    """

    fingerprint = f"{NUM_DRAFTS} drafts"

    def loss(self, model: NemotronHForCausalLM, batch: MicroBatch) -> Objected:
        """The sum over micro-batch and depths, divided by its normaliser and the depths."""
        sums_b = torch.zeros(len(batch.batch.tokens_bl), device=model.device)
        for draft in _drafts(model, batch.batch):
            # No more drafts than completion tokens: with most of these all ask for as many pieces.
            losses_c = token_losses(
                model.lm_head,
                draft.hidden_cd,
                draft.tokens_c,
                most_tokens=batch.batch.most_targets,
            )
            sums_b = sums_b + per_example(losses_c, draft.places_c2[:, 0], len(sums_b))
        sums_b = sums_b / NUM_DRAFTS
        counts_b = batch.batch.targets_bl.sum(1)
        return Objected(sums_b.sum() / batch.normaliser, sums_b.detach(), counts_b)

    def before_step(self, parameters: object) -> None:
        """No gradient is touched."""


@torch.no_grad()
def acceptance(
    model: NemotronHForCausalLM, examples: Encoded, batch_size: int, ranks: Ranks = ALONE
) -> tuple[float, ...]:
    """The part of the drafts of `model.mtp` that greedy decoding would accept, for each depth, in
    [0, 1]; 0 where there is nothing to draft.

    Along the examples' own completions: drafting starts from each of their tokens, and a draft is
    accepted where the backbone, having read the text so far, says the same token, and those drafted
    before it were accepted. What a serving stack measures on the model's own answers may differ by
    where these are others. `ranks`: the processes that call it together; each sees to a part, and
    has the result of all.
    """
    counts_2n = torch.zeros(2, NUM_DRAFTS, dtype=torch.int64, device=model.device)
    most = tokens_of_a_pass(model)
    for some, most_tokens, num_new in portions(examples, batch_size, ranks, most=most):
        batch = replace(collate(examples, some), most_targets=most_tokens).to(model.device)
        found_2n = _accepted(model, batch)
        if num_new:
            counts_2n += found_2n
    accepted, tried = ranks.total(counts_2n).tolist()
    return tuple(a / max(t, 1) for a, t in zip(accepted, tried, strict=True))


def _accepted(model: NemotronHForCausalLM, batch: Batch) -> Tensor:
    """How many drafts of each depth were accepted, and how many there were."""
    said_bl = _said(model, batch)
    alive_bl = torch.ones_like(batch.targets_bl)
    counts: list[Tensor] = []
    for depth, draft in enumerate(_drafts(model, batch)):
        rows, places = draft.places_c2.unbind(1)
        agrees_c = _choices(model, draft.hidden_cd, draft.tokens_c, batch) == said_bl[rows, places]
        # The draft before of the same chain stands one place to the left.
        agrees_c &= alive_bl[rows, places - 1]
        alive_bl = torch.zeros_like(alive_bl)
        alive_bl[rows, places] = agrees_c
        # Nothing is drafted from within a prompt: its next tokens are known.
        started_c = batch.targets_bl[rows, places - depth - 1]
        counts.append(torch.stack([(agrees_c & started_c).sum(), started_c.sum()]))
    return torch.stack(counts, dim=1)


def _said(model: NemotronHForCausalLM, batch: Batch) -> Tensor:
    """said_bl: at a completion token's place what the backbone says there, greedily; else -1."""
    hidden_cd, tokens_c, _ = completion_hidden(model, batch)
    said_bl = torch.full_like(batch.tokens_bl, -1)
    said_bl[:, 1:][batch.targets_bl[:, 1:]] = _choices(model, hidden_cd, tokens_c, batch)
    return said_bl


def _choices(
    model: NemotronHForCausalLM, hidden_cd: Tensor, tokens_c: Tensor, batch: Batch
) -> Tensor:
    return greedy(model.lm_head, hidden_cd, tokens_c, most_tokens=batch.most_targets)[1]
