"""Outcomes: what a model says to every holdout example, in one forward pass per example.

Under teacher forcing each completion token is predicted from the true tokens before it. If the
most likely token is right at every position, greedy decoding would have walked the same path, and
if it is wrong somewhere, greedy decoding would have left it there: so `correct` equals greedy
decoding's exact match, at the cost of one pass. No judgement here (`updater.gate`). Called by the
evaluate step of `updater.pipeline`.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import UpdateError
from updater.nemotron.kernel_inputs import check_row
from updater.train.encode import Encoded, collate, encode
from updater.train.likelihood import completion_hidden, greedy
from updater.train.portions import portions, tokens_of_a_pass
from updater.train.ranks import ALONE, Ranks
from updater.train.record import RATE

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("correct", pa.bool_()),
        ("loss", pa.float32()),
        ("predicted", pa.string()),
    ]
)


def outcomes(
    model: NemotronHForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    table: pa.Table,
    *,
    batch_size: int,
    max_length_tokens: int,
    on_progress: Callable[[int], object] = lambda _: None,
    ranks: Ranks = ALONE,
) -> pa.Table:
    """One row per example of `table` (columns id, prompt, completion), in its order.

    `correct`: the whole completion and its end of sequence are the greedy choice. `loss`: mean
    negative log-likelihood per completion token, nats. `predicted`: the greedy choices under
    teacher forcing, decoded up to the first end of sequence. An example longer than
    `max_length_tokens` could not be learnt and is not asked: correct is false, loss and predicted
    are null.

    `on_progress` is told how many more examples are done.
    `ranks`: the processes that call it together; each sees to a part, and has all answers. The
    batch size changes losses by rounding only (below 1e-4 in float32); `correct` can differ only
    where two tokens' logits are that close. Equal logits: the smallest token id, as in `generate`.

    Raises:
        InputError: an example is longer than the kernels reach.
    """
    encoded = encode(tokenizer, table, max_length_tokens=max_length_tokens)
    check_row(model.config, int(encoded.lengths.max(initial=0)), what="an example")
    losses, correct, choices = _forward(model, encoded, batch_size, on_progress, ranks)
    ends = np.cumsum(encoded.completion_lengths)[:-1]
    pieces = np.split(choices, ends) if len(encoded) else []
    spoken = tokenizer.batch_decode(
        [_until(piece.tolist(), tokenizer.eos_token_id) for piece in pieces],
        skip_special_tokens=True,
    )
    return _in_order(table, encoded, {"correct": correct, "loss": losses, "predicted": spoken})


def of_numbers(answered: pa.Table) -> pa.Table:
    """The outcomes, of which each loss that is there is a number: for who chooses by them.

    Raises:
        UpdateError: one is not.
    """
    if not np.isfinite(answered["loss"].drop_null().to_numpy()).all():
        raise UpdateError(
            "the model's losses are no numbers: its training has gone too far, so that nothing can"
            f" be chosen by them; lower {RATE}, or take another rehearsal.policy"
        )
    return answered


@torch.no_grad()
def _forward(
    model: NemotronHForCausalLM,
    encoded: Encoded,
    batch_size: int,
    add: Callable[[int], object],
    ranks: Ranks,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean losses and correctness per encoded example, and all greedy choices, flat."""
    model.eval()
    lengths = encoded.completion_lengths
    starts = np.concatenate([[0], np.cumsum(lengths)])
    # Zeros, for what the processes found is added up.
    token_losses = np.zeros(starts[-1], np.float32)
    choices, answers = np.zeros((2, starts[-1]), np.int64)
    most = tokens_of_a_pass(model)
    for some, most_tokens, num_new in portions(encoded, batch_size, ranks, most=most):
        batch = collate(encoded, some).to(model.device)
        hidden_cd, tokens_c, _ = completion_hidden(model, batch)
        losses_c, choices_c = greedy(model.lm_head, hidden_cd, tokens_c, most_tokens=most_tokens)
        add(num_new)
        if not num_new:
            continue
        # Where this batch's completion tokens, example after example, lie in the flat arrays.
        ends = np.cumsum(lengths[some])
        shift = starts[some] - (ends - lengths[some])
        places_c = np.arange(ends[-1]) + np.repeat(shift, lengths[some])
        token_losses[places_c] = losses_c.cpu().numpy()
        choices[places_c] = choices_c.cpu().numpy()
        answers[places_c] = tokens_c.cpu().numpy()
    token_losses, choices, answers = (
        ranks.total(torch.from_numpy(mine)).numpy() for mine in (token_losses, choices, answers)
    )
    if not len(encoded):
        return np.empty(0, np.float32), np.empty(0, bool), choices
    sums = np.add.reduceat(token_losses, starts[:-1], dtype=np.float64)
    correct = np.logical_and.reduceat(choices == answers, starts[:-1])
    return (sums / lengths).astype(np.float32), correct, choices


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def _in_order(table: pa.Table, encoded: Encoded, found: dict[str, object]) -> pa.Table:
    """The found columns spread over the table's rows; nulls, or false, where nothing was found."""
    places = np.full(len(table), -1, np.int64)
    places[encoded.rows] = np.arange(len(encoded))
    indices = pa.array(places, mask=places < 0)
    columns = {"id": table["id"].combine_chunks()}
    for name, values in found.items():
        columns[name] = pa.array(values, SCHEMA.field(name).type).take(indices)
    columns["correct"] = columns["correct"].fill_null(False)
    return pa.table(columns, schema=SCHEMA)
