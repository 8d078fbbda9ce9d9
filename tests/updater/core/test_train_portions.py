"""Which examples are asked together: each once, by one process, and no pass too large."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from updater.nemotron import checkpoint, presets
from updater.train.asking_footprint import states_of_token
from updater.train.encode import Encoded
from updater.train.portions import MOST_TOKENS, most_tokens, portions, tokens_of_a_pass
from updater.train.ranks import Ranks

LENGTHS = st.lists(
    st.integers(2, 100) | st.integers(1000, 3000) | st.integers(MOST_TOKENS, 2 * MOST_TOKENS),
    max_size=40,
)


@given(LENGTHS, st.integers(1, 64), st.integers(1, 4))
def test_each_example_is_asked_once_and_no_pass_is_too_large(
    lengths: list[int], batch_size: int, world: int
) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    prompts = np.array([length // 2 for length in lengths], np.int64)
    encoded = Encoded(np.zeros(0, np.int32), starts, prompts, np.arange(len(lengths)), ())
    of_ranks = [
        list(portions(encoded, batch_size, Ranks(rank=rank, world=world), most=MOST_TOKENS))
        for rank in range(world)
    ]
    asked: Counter[int] = Counter()
    for passes in zip(*of_ranks, strict=True):  # all take as many passes
        own = [examples[:num_own] for examples, _, num_own in passes]
        asked.update(int(example) for part in own for example in part)
        most = max(int(encoded.completion_lengths[part].sum()) for part in own)
        assert {told for _, told, _ in passes} == {most}
        for examples, _, _ in passes:
            padded = len(examples) * int(encoded.lengths[examples].max())
            assert len(examples) == 1 or padded <= MOST_TOKENS
            assert 1 <= len(examples) <= batch_size
    assert asked == Counter(range(len(lengths)))


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("nemotron-3-tiny", MOST_TOKENS, MOST_TOKENS),
        ("nemotron-3-nano-4b", 60_000, MOST_TOKENS),
        ("nemotron-3-nano", 35_000, 45_000),
        ("nemotron-3-super", 10_000, 30_000),
        ("nemotron-3-ultra", 6_000, 9_000),
    ],
)
def test_a_large_model_is_asked_fewer_tokens_at_a_time(name: str, least: int, most: int) -> None:
    """As many as are reckoned of its config.json."""
    fields = presets.config_fields(name, 131_072)
    with torch.device("meta"):
        model = checkpoint.build(fields).to(torch.bfloat16)
    found = tokens_of_a_pass(model)
    assert found == most_tokens(states_of_token(fields, torch.bfloat16))
    assert least <= found <= most
