"""The one loss: completion tokens, end of sequence included.

Not a metric (`updater.evaluate`). Called by the objectives, `updater.train.importance` and
`updater.evaluate`.

Shape suffixes: b examples of a batch, l positions, c completion tokens of a batch, v vocabulary,
d hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.nemotron import packing
from updater.train.encode import Batch

LOGITS_BYTES = 2**29
"""Logits in float32 that are whole at a time, at most: 1,024 tokens of a vocabulary of 131,072."""


def completion_hidden(model: NemotronHForCausalLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """hidden_cd, from which each of the batch's c completion tokens is predicted, tokens_c and
    examples_c, in order.

    Only these positions pass through lm_head.
    """
    if batch.lengths:
        return _packed_hidden(model, batch)
    hidden_bld = model.model(input_ids=batch.tokens_bl, use_cache=False).last_hidden_state
    # The token at position l is predicted from position l - 1.
    targets_bl = batch.targets_bl[:, 1:]
    hidden_cd = hidden_bld[:, :-1][targets_bl]
    return hidden_cd, batch.tokens_bl[:, 1:][targets_bl], targets_bl.nonzero()[:, 0]


def _packed_hidden(model: NemotronHForCausalLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    tokens_bl, device = batch.tokens_bl, batch.tokens_bl.device
    lengths_b = torch.tensor(batch.lengths, device=device)
    places_l = torch.arange(tokens_bl.shape[1], device=device)
    inside_bl = places_l < lengths_b[:, None]
    # The first token of a text is predicted from nothing, nor from the text before it.
    targets_n = (batch.targets_bl & (places_l > 0))[inside_bl][1:]
    tokens_n, examples_n = tokens_bl[inside_bl], inside_bl.nonzero()[:, 0]
    hidden_nd = packing.hidden(model, tokens_n, batch.lengths)
    return hidden_nd[:-1][targets_n], tokens_n[1:][targets_n], examples_n[1:][targets_n]


def completion_logits(model: NemotronHForCausalLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """float32 logits_cv, tokens_c and examples_c, as `completion_hidden`. All logits at once: for
    who needs them all."""
    hidden_cd, tokens_c, examples_c = completion_hidden(model, batch)
    return model.lm_head(hidden_cd).float(), tokens_c, examples_c


def token_losses(
    lm_head: nn.Linear, hidden_cd: Tensor, tokens_c: Tensor, *, most_tokens: int = 0
) -> Tensor:
    """losses_c: each token's negative log-likelihood (nats, float32).

    Logits are made for some tokens at a time, and made again on the way back where a gradient is
    asked for: with a vocabulary of 131,072 those of a long batch would be by far the largest
    tensor. Of that few tokens that they fit into `LOGITS_BYTES` it is one product, as without.
    `most_tokens`: of the process that has the most, where many share a head in shards: each has to
    ask for it as often.
    """
    pieces = _pieces(lm_head, hidden_cd, tokens_c, most_tokens)
    if len(pieces) == 1:
        return _token_losses(lm_head, hidden_cd, tokens_c)
    parts = [
        checkpoint(_token_losses, lm_head, hidden, tokens, use_reentrant=False)
        for hidden, tokens in pieces
    ]
    return torch.cat(parts)


def greedy(
    lm_head: nn.Linear, hidden_cd: Tensor, tokens_c: Tensor, *, most_tokens: int = 0
) -> tuple[Tensor, Tensor]:
    """losses_c as `token_losses`, and choices_c: the most likely token at each position, of equal
    ones the smallest. Without a graph; logits for some tokens at a time."""
    losses, choices = [], []
    for hidden, tokens in _pieces(lm_head, hidden_cd, tokens_c, most_tokens):
        logits_cv = lm_head(hidden).float()
        losses.append(functional.cross_entropy(logits_cv, tokens, reduction="none"))
        choices.append(logits_cv.argmax(-1))
    return torch.cat(losses), torch.cat(choices)


def _pieces(
    lm_head: nn.Linear, hidden_cd: Tensor, tokens_c: Tensor, most_tokens: int
) -> list[tuple[Tensor, Tensor]]:
    """At least one, each of so few tokens that its logits fit into `LOGITS_BYTES`."""
    most = max(LOGITS_BYTES // (4 * lm_head.out_features), 1)
    number = max(-(-max(len(tokens_c), most_tokens) // most), 1)
    return list(zip(hidden_cd.tensor_split(number), tokens_c.tensor_split(number), strict=True))


def _token_losses(lm_head: nn.Linear, hidden_cd: Tensor, tokens_c: Tensor) -> Tensor:
    return functional.cross_entropy(lm_head(hidden_cd).float(), tokens_c, reduction="none")


def negative_log_likelihood(model: NemotronHForCausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """sums_b, the negative log-likelihood of each example's completion (nats, float32), and
    counts_b, its completion tokens."""
    hidden_cd, tokens_c, examples_c = completion_hidden(model, batch)
    losses_c = token_losses(model.lm_head, hidden_cd, tokens_c, most_tokens=batch.most_targets)
    return per_example(losses_c, examples_c, len(batch.tokens_bl)), batch.targets_bl.sum(1)


def per_example(values_c: Tensor, examples_c: Tensor, num_examples: int) -> Tensor:
    """sums_b: the sum of each example's values, 0 for one that has none."""
    return values_c.new_zeros(num_examples).index_add(0, examples_c, values_c)
