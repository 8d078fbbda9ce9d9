"""What a training run learns: new and rehearsed examples, as tokens.

Not their order (`updater.train.schedule`). Called by the train step of `updater.pipeline`.
"""

from dataclasses import dataclass

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from updater.errors import UpdateError
from updater.train.encode import Encoded, encode, join


@dataclass(frozen=True)
class Lesson:
    """`examples`, of which the first `num_new` are new and the others are rehearsed."""

    examples: Encoded
    num_new: int

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerFast,
        new: pa.Table,
        rehearsed: pa.Table | None,
        *,
        max_length_tokens: int,
        thinking: bool = False,
    ) -> "Lesson":
        """The examples of both tables, as `updater.train.encode.encode` takes them; those of more
        than `max_length_tokens` are left out and stand in `examples.too_long`.

        Raises:
            UpdateError: no new one is short enough.
        """
        examples = encode(tokenizer, new, max_length_tokens=max_length_tokens, thinking=thinking)
        num_new = len(examples)
        if not num_new:
            raise UpdateError(
                f"nothing to learn: {len(examples.too_long)} of {new.num_rows} new examples are"
                f" longer than model.max_length_tokens = {max_length_tokens}, and there are no"
                " others"
            )
        if rehearsed is not None:
            old = encode(
                tokenizer, rehearsed, max_length_tokens=max_length_tokens, thinking=thinking
            )
            examples = join(examples, old)
        return cls(examples, num_new)
