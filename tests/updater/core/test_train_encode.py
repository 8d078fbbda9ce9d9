"""Token batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from updater.nemotron import checkpoint
from updater.train.encode import Encoded, collate, encode, join


@pytest.fixture(scope="module")
def loaded(base: Path) -> Any:
    return checkpoint.load(base)


def test_an_example_is_prompt_completion_and_end(loaded: Any, language: Any) -> None:
    _, tokenizer = loaded
    table = language(0, 12)
    encoded = encode(tokenizer, table, max_length_tokens=64)
    assert len(encoded) == 12
    for row in range(12):
        tokens = encoded.tokens[encoded.starts[row] : encoded.starts[row + 1]]
        prompt, completion = table["prompt"][row].as_py(), table["completion"][row].as_py()
        cut = encoded.prompt_lengths[row]
        assert tokenizer.decode(tokens[:cut]) == prompt
        assert tokenizer.decode(tokens[cut:-1]) == completion
        assert tokens[-1] == tokenizer.eos_token_id
        assert encoded.completion_lengths[row] == len(tokens) - cut


def test_examples_that_are_too_long_are_reported_and_not_cut(loaded: Any, language: Any) -> None:
    _, tokenizer = loaded
    table = language(0, 40)
    whole = encode(tokenizer, table, max_length_tokens=10_000)
    limit = int(np.median(whole.lengths))
    encoded = encode(tokenizer, table, max_length_tokens=limit)
    expected = [i for i, length in enumerate(whole.lengths) if length > limit]
    assert 0 < len(expected) < 40
    assert encoded.too_long == tuple(table["id"][i].as_py() for i in expected)
    assert encoded.rows.tolist() == [i for i in range(40) if i not in expected]
    assert encoded.lengths.tolist() == whole.lengths[encoded.rows].tolist()


def test_an_empty_table_is_no_examples(loaded: Any, language: Any) -> None:
    encoded = encode(loaded[1], language(0, 0), max_length_tokens=64)
    assert (len(encoded), encoded.lengths.tolist()) == (0, [])


def test_joined_examples_are_those_of_both(loaded: Any, language: Any) -> None:
    _, tokenizer = loaded
    first = encode(tokenizer, language(0, 5), max_length_tokens=64)
    second = encode(tokenizer, language(5, 4), max_length_tokens=64)
    both, straight = join(first, second), encode(tokenizer, language(0, 9), max_length_tokens=64)
    assert np.array_equal(both.tokens, straight.tokens)
    assert np.array_equal(both.starts, straight.starts)


def test_a_batch_worked_by_hand() -> None:
    encoded = Encoded(
        tokens=np.array([5, 6, 7, 2, 8, 9, 2], np.int32),
        starts=np.array([0, 4, 7]),
        prompt_lengths=np.array([2, 1]),
        rows=np.array([0, 1]),
        too_long=(),
    )
    batch = collate(encoded, [1, 0])
    assert batch.tokens_bl.tolist() == [[8, 9, 2, 0], [5, 6, 7, 2]]
    assert batch.targets_bl.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
