"""How fast two models go forward, side by side in one process.

On a machine that others use as well a clock by itself says little, and one of another hour
nothing: so the two take turns, of several turns that counts whose ratio is the middle one, and
where one thread of the processor does all the work its own time is taken, in which nothing else is.
Called by `updater.study.compressing`.
"""

import time
from collections.abc import Sequence

import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.train.encode import Batch, Encoded, collate
from updater.train.likelihood import negative_log_likelihood
from updater.train.portions import MOST_TOKENS, portions
from updater.train.ranks import ALONE

NUM_TURNS = 11
"""That count; one before them does not. Chosen: the middle one stands where something else held up
five of them."""


def side_by_side(
    one: NemotronHForCausalLM, other: NemotronHForCausalLM, examples: Encoded, *, batch_size: int
) -> tuple[float, float]:
    """Examples a second of each, as the models are evaluated: prompts and completions are read
    once, in batches of this size, and nothing is generated."""
    models = (one.eval(), other.eval())
    read = [
        collate(examples, some).to(one.device)
        for some, _, _ in portions(examples, batch_size, ALONE, most=MOST_TOKENS)
    ]
    turns = [tuple(_seconds(model, read) for model in models) for _ in range(NUM_TURNS + 1)]
    turns = sorted(turns[1:], key=lambda turn: turn[0] / turn[1])
    mine, others = (len(examples) / seconds for seconds in turns[NUM_TURNS // 2])
    return mine, others


@torch.no_grad()
def _seconds(model: NemotronHForCausalLM, some: Sequence[Batch]) -> float:
    is_alone = model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if is_alone else time.perf_counter
    began = clock()
    for batch in some:
        losses_b, _ = negative_log_likelihood(model, batch)
        losses_b.sum().item()  # a GPU is done when it has said a number
    return clock() - began
