"""Which examples go through a model that is asked, pass by pass, in each of many processes.

Not the batches of a training (`updater.train.schedule`). Called by `updater.evaluate` and
`updater.train.drafting`.
"""

from collections.abc import Iterator

import numpy as np
from torch import nn
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHExperts,
    NemotronHForCausalLM,
)

from updater.train.encode import Encoded
from updater.train.ranks import Ranks

MOST_TOKENS = 2**16
"""Of a pass, padding counted, unless one text alone has more. Chosen: 64 texts of 1,024."""

STATES_BYTES = 2**33
"""What a layer's states may take, which has fewer tokens in a pass of a large model: some 36,000 of
Nano in bfloat16, 7,000 of Ultra. Chosen."""

_WIDE = 3
"""As many tensors of a layer's widest states are there at once: chosen, what goes into an
operation, what comes out of it, and a copy."""


def token_bytes(*, itemsize: int, hidden: int, widest: int, routed: int) -> int:
    """What a layer's states take of a token at the most.

    Args:
        itemsize: of the model's dtype.
        hidden: numbers of a hidden state.
        widest: numbers that a layer makes of a token at the most: Mamba-2's projection, an MLP's
            neurons, or those of all experts that a token comes to, or what comes out of these.
        routed: numbers that come into all of these; in float32, and as many go out.
    """
    return itemsize * (2 * hidden + _WIDE * widest) + 2 * 4 * routed


def most_tokens(of_token: int) -> int:
    """Of a pass of a model of which a token takes so many bytes."""
    return min(MOST_TOKENS, max(STATES_BYTES // of_token, 1))


def tokens_of_a_pass(model: NemotronHForCausalLM) -> int:
    """The same of this model."""
    widest, routed, each = 0, 0, model.config.num_experts_per_tok
    for module in model.model.modules():
        if isinstance(module, nn.Linear):
            widest = max(widest, module.out_features)
        elif isinstance(module, NemotronHExperts):
            routed = each * module.down_proj.shape[1]
            widest = max(widest, each * module.intermediate_dim, routed)
    return most_tokens(
        token_bytes(
            itemsize=model.dtype.itemsize,
            hidden=model.config.hidden_size,
            widest=widest,
            routed=routed,
        )
    )


def portions(
    encoded: Encoded, batch_size: int, ranks: Ranks, *, most: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Examples of like length, this process's of as many as all can take at once; the completion
    tokens that one of them has at most; and how many are its own. One that has none goes along with
    another's: what is in shards, all have to ask for.

    `batch_size`: of each process; fewer where they would have more tokens than `most`."""
    lengths, completions = encoded.lengths, encoded.completion_lengths
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        longest = lengths[order[first : first + batch_size * ranks.world][-1]]
        each = min(batch_size, max(most // int(longest), 1))
        whole = order[first : first + each * ranks.world]
        first += len(whole)
        parts = [whole[rank :: ranks.world] for rank in range(ranks.world)]
        most_tokens = max(int(completions[part].sum()) for part in parts)
        mine = parts[ranks.rank]
        yield (mine if len(mine) else whole[:1]), most_tokens, len(mine)
