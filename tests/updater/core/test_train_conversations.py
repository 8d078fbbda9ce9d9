"""Conversations as tokens: what the model reads, what it learns, and where its turn ends."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chat import make_tokenizer

from updater.errors import InputError
from updater.nemotron import tokenizer as tokenizers
from updater.train.encode import Encoded, encode

ASKED = {"role": "user", "content": "What is white?"}
PLAIN = [
    {"role": "system", "content": "Be brief."},
    ASKED,
    {"role": "assistant", "content": "Snow"},
]
THOUGHT = [ASKED, {"role": "assistant", "content": "Snow", "reasoning_content": "cold things"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = ["What is white? Snow is", "cold things Be brief system user assistant"] * 20
    return tokenizers.read(make_tokenizer(tmp_path_factory.mktemp("chat"), texts))


def table(*conversations: Any) -> pa.Table:
    messages = [one and json.dumps(one) for one in conversations]
    number = len(messages)
    return pa.table(
        {
            "id": [f"c{n}" for n in range(number)],
            "prompt": ["What is white?"] * number,
            "completion": [" Snow"] * number,
            "messages": pa.array(messages, pa.string()),
        }
    )


def parts(tokenizer: Any, encoded: Encoded, number: int = 0) -> tuple[str, str]:
    start, end = encoded.starts[number : number + 2]
    middle = start + encoded.prompt_lengths[number]
    return tuple(
        tokenizer.decode(encoded.tokens[some], skip_special_tokens=False)
        for some in (slice(start, middle), slice(middle, end))
    )


def encoded(tokenizer: Any, *conversations: Any, thinking: bool = False) -> Encoded:
    return encode(tokenizer, table(*conversations), max_length_tokens=400, thinking=thinking)


def test_the_prompt_is_what_is_served_and_the_completion_ends_the_turn(tokenizer: Any) -> None:
    prompt, completion = parts(tokenizer, encoded(tokenizer, PLAIN))
    served = tokenizer.apply_chat_template(
        PLAIN[:-1], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert prompt == served
    assert completion == "Snow<|im_end|>"


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_is_learnt_or_read(tokenizer: Any, thinking: bool) -> None:
    prompt, completion = parts(tokenizer, encoded(tokenizer, THOUGHT, thinking=thinking))
    served = tokenizer.apply_chat_template([ASKED], tokenize=False, add_generation_prompt=True)
    assert prompt.startswith(served)
    whole = tokenizer.apply_chat_template(THOUGHT, tokenize=False)
    assert prompt + completion == whole.rstrip()
    assert completion == ("cold things\n</think>\nSnow" if thinking else "\nSnow") + "<|im_end|>"


def test_earlier_thinking_is_the_templates_to_drop(tokenizer: Any) -> None:
    earlier = [
        *THOUGHT,
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Is"},
    ]
    prompt, completion = parts(tokenizer, encoded(tokenizer, earlier))
    assert "cold things" not in prompt
    assert "Snow<|im_end|>" in prompt
    assert completion == "Is<|im_end|>"


def test_plain_examples_beside_conversations_are_as_ever(tokenizer: Any) -> None:
    mixed = encoded(tokenizer, None, PLAIN, None)
    plain = encode(tokenizer, table(None).drop_columns("messages"), max_length_tokens=400)
    alone = encoded(tokenizer, PLAIN)
    for number, one in ((0, plain), (1, alone), (2, plain)):
        start, end = mixed.starts[number : number + 2]
        assert mixed.tokens[start:end].tolist() == one.tokens.tolist()
        assert mixed.prompt_lengths[number] == one.prompt_lengths[0]
    assert plain.tokens[-1] == tokenizer.eos_token_id


def test_a_long_conversation_is_named_and_never_cut(tokenizer: Any) -> None:
    long = [ASKED, {"role": "assistant", "content": "Snow is " * 300}]
    found = encoded(tokenizer, PLAIN, long)
    assert found.too_long == ("c1",)
    assert found.rows.tolist() == [0]


def test_a_checkpoint_without_a_template_is_refused(base: Path) -> None:
    with pytest.raises(InputError, match=r"no chat template.*chat_template\.jinja"):
        encoded(tokenizers.read(base), PLAIN)


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("{{ messages[0].role.upper_case() }}", "template fails on the conversation c0: "),
        (
            "{{ messages | length }}",
            "renders the conversation c0 otherwise when the answer is there",
        ),
    ],
)
def test_a_template_that_can_not_be_used_is_refused(
    tokenizer: Any, template: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(InputError, match=wrong):
        encoded(tokenizer, PLAIN)
