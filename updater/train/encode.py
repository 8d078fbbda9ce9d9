"""Examples to padded token batches.

Not a sampler (`rehearsal.mix` orders examples) and not a loss (`updater.train.likelihood`). Called
by `updater.train.lesson`, `updater.train.schedule` and `updater.evaluate`.

Shape suffixes: b examples of a batch, l positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerFast

from updater.errors import UpdateError
from updater.train.conversations import turns

PADDING = 0
"""The token that batches are padded with: `<pad>` of our tokenizers, `<unk>` of NVIDIA's, which no
text has."""

_TEXTS_AT_ONCE = 4096  # bounds the memory of the tokenizer's own objects


@dataclass(frozen=True)
class Encoded:
    """Examples as token ids: prompt, completion, end of sequence.

    `tokens` holds all examples one after the other, example i from `starts[i]` to
    `starts[i + 1]`; the first `prompt_lengths[i]` of them are its prompt. `rows[i]` is its row in
    the table it came from. `too_long` are the ids of the examples left out because prompt and
    completion are longer than the limit: reported, never cut.
    """

    tokens: np.ndarray
    starts: np.ndarray
    prompt_lengths: np.ndarray
    rows: np.ndarray
    too_long: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, prompt and completion and end of sequence."""
        return np.diff(self.starts)

    @property
    def completion_lengths(self) -> np.ndarray:
        """Tokens per example that the loss counts: the completion and the end of sequence."""
        return self.lengths - self.prompt_lengths


@dataclass(frozen=True)
class Batch:
    """Right-padded examples: `tokens_bl` int64, and `targets_bl` bool, true where a position
    holds a completion token. Padding is exact without an attention mask: the model is causal.
    `most_targets`: of a part of a batch that many processes share, how many such tokens the part
    with the most has. `lengths`: of a batch that is to be computed without its padding, as
    `updater.nemotron.packing` does, the tokens of each example; else empty."""

    tokens_bl: torch.Tensor
    targets_bl: torch.Tensor
    most_targets: int = 0
    lengths: tuple[int, ...] = ()

    def pinned(self) -> "Batch":
        """The batch in memory from which a GPU takes it while it computes something else."""
        return replace(
            self, tokens_bl=self.tokens_bl.pin_memory(), targets_bl=self.targets_bl.pin_memory()
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on `device`; a GPU copies what is pinned beside what it computes."""
        beside = torch.device(device).type == "cuda"
        return replace(
            self,
            tokens_bl=self.tokens_bl.to(device, non_blocking=beside),
            targets_bl=self.targets_bl.to(device, non_blocking=beside),
        )


def encode(
    tokenizer: PreTrainedTokenizerFast,
    table: pa.Table,
    *,
    max_length_tokens: int,
    thinking: bool = False,
) -> Encoded:
    """Every example of `table` (columns id, prompt, completion, and where there are conversations
    messages) that is short enough, as tokens.

    A prompt is encoded as a serving stack would encode it, a completion with nothing added but the
    end of sequence; of a conversation both come from the chat template, and so does the end.
    `thinking`: whether a conversation's thinking belongs to its completion, or to its prompt.

    Raises:
        InputError: the chat template can't be used, as `updater.train.conversations.turns` says.
    """
    prompts = _token_ids(tokenizer, table["prompt"], special=True)
    completions = _token_ids(tokenizer, table["completion"], special=False)
    for ids in completions:
        ids.append(tokenizer.eos_token_id)
    for row, prompt, completion in _spoken(tokenizer, table, thinking=thinking):
        prompts[row], completions[row] = prompt, completion
    prompt_lengths = np.fromiter(map(len, prompts), np.int64, len(prompts))
    lengths = prompt_lengths + np.fromiter(map(len, completions), np.int64, len(completions))
    fits = lengths <= max_length_tokens
    rows = np.flatnonzero(fits)
    tokens = np.fromiter(
        chain.from_iterable(chain(prompts[row], completions[row]) for row in rows),
        np.int32,
        int(lengths[rows].sum()),
    )
    return Encoded(
        tokens=tokens,
        starts=np.concatenate([[0], np.cumsum(lengths[rows])]),
        prompt_lengths=prompt_lengths[rows],
        rows=rows,
        too_long=tuple(str(table["id"][int(row)]) for row in np.flatnonzero(~fits)),
    )


def _spoken(
    tokenizer: PreTrainedTokenizerFast, table: pa.Table, *, thinking: bool
) -> Iterator[tuple[int, list[int], list[int]]]:
    """Row, prompt and completion of each conversation. What a template says is all there is: the
    tokenizer adds nothing."""
    if "messages" not in table.column_names:
        return
    messages = table["messages"].to_pylist()
    rows = [row for row, one in enumerate(messages) if one is not None]
    if not rows:
        return
    named = ((str(table["id"][row]), messages[row]) for row in rows)
    rendered = turns(tokenizer, named, thinking=thinking)
    texts = (
        pa.chunked_array([pa.array(part, pa.string())]) for part in zip(*rendered, strict=True)
    )
    prompts, completions = (_token_ids(tokenizer, text, special=False) for text in texts)
    yield from zip(rows, prompts, completions, strict=True)


def _token_ids(
    tokenizer: PreTrainedTokenizerFast, texts: pa.ChunkedArray, *, special: bool
) -> list[list[int]]:
    ids: list[list[int]] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts.slice(start, _TEXTS_AT_ONCE).to_pylist()
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(some, add_special_tokens=special)
        ids.extend(encoding.ids for encoding in encodings)
    return ids


def join(first: Encoded, second: Encoded) -> Encoded:
    """The examples of both, those of `second` counted on from the end of `first`."""
    return Encoded(
        tokens=np.concatenate([first.tokens, second.tokens]),
        starts=np.concatenate([first.starts, second.starts[1:] + first.starts[-1]]),
        prompt_lengths=np.concatenate([first.prompt_lengths, second.prompt_lengths]),
        rows=np.concatenate([first.rows, second.rows]),
        too_long=first.too_long + second.too_long,
    )


def refuse_none(encoded: Encoded, *, what: str) -> None:
    """There is an example for `what` to look at.

    Raises:
        UpdateError: all were too long.
    """
    if not len(encoded):
        raise UpdateError(
            f"{what} has no example to look at: all {len(encoded.too_long)} are longer than"
            " model.max_length_tokens"
        )


def select(encoded: Encoded, examples: Sequence[int] | np.ndarray) -> Encoded:
    """The named examples in this order, and none that was too long."""
    chosen = np.asarray(examples, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(encoded.lengths[chosen])])
    offsets = np.repeat(encoded.starts[chosen] - starts[:-1], np.diff(starts))
    return Encoded(
        tokens=encoded.tokens[np.arange(int(starts[-1])) + offsets],
        starts=starts,
        prompt_lengths=encoded.prompt_lengths[chosen],
        rows=encoded.rows[chosen],
        too_long=(),
    )


def collate(
    encoded: Encoded, examples: Sequence[int] | np.ndarray, *, packed: bool = False
) -> Batch:
    """The named examples in this order, padded on the right to the longest of them; `packed`: to be
    computed without the padding."""
    chosen = np.asarray(examples, dtype=np.int64)
    lengths = encoded.lengths[chosen]
    places_l = np.arange(int(lengths.max()))
    inside_bl = places_l < lengths[:, None]
    at_bl = np.where(inside_bl, encoded.starts[chosen][:, None] + places_l, 0)
    tokens_bl = np.where(inside_bl, encoded.tokens[at_bl], PADDING).astype(np.int64)
    targets_bl = inside_bl & (places_l >= encoded.prompt_lengths[chosen][:, None])
    tokens, targets = torch.from_numpy(tokens_bl), torch.from_numpy(targets_bl)
    return Batch(tokens, targets, lengths=tuple(lengths.tolist()) if packed else ())
