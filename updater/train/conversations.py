"""Conversations to prompts and completions, by the chat template of the checkpoint itself.

A prompt is what a serving stack would make of the messages before the last answer, up to where the
model begins to speak; the completion is the rest, to the end of the turn. Called by
`updater.train.encode`.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from updater.errors import InputError

_THOUGHT = "</think>"


class Turn(NamedTuple):
    """Text before what is learnt, and that with the end of the turn."""

    prompt: str
    completion: str


def turns(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Iterable[tuple[str, str]],
    *,
    thinking: bool,
) -> list[Turn]:
    """Of each conversation (its id, and JSON of its messages, the last one the answer).

    Args:
        tokenizer: with the chat template.
        thinking: what the answer's thinking is: learnt with the answer, or text before it. One
            without thinking is rendered by the template's `enable_thinking = false`.

    Raises:
        InputError: there is no template, it fails, or it shows the messages before the answer
            otherwise when the answer is there.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "the checkpoint's tokenizer has no chat template",
            "conversations (source.fields.messages) are rendered by it",
            "put the release's chat_template.jinja beside its tokenizer.json",
        )
    return [
        _turn(tokenizer, f"the conversation {name}", json.loads(messages), thinking=thinking)
        for name, messages in conversations
    ]


def _turn(
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    messages: Sequence[dict[str, Any]],
    *,
    thinking: bool,
) -> Turn:
    *before, answer = messages
    thinks = bool(answer.get("reasoning_content"))
    how = {"enable_thinking": thinks}
    prompt = _rendered(tokenizer, name, before, **how, add_generation_prompt=True)
    whole = _rendered(tokenizer, name, messages, **how, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise InputError(
            f"the checkpoint's chat template renders {name} otherwise when the answer is there: "
            f"{whole[:200]!r} does not begin with {prompt[:200]!r}",
            "a model is trained on what it will be shown",
            "mend the template's add_generation_prompt",
        )
    completion = whole[len(prompt) :].rstrip()
    if thinks and not thinking:
        inside, end, spoken = completion.partition(_THOUGHT)
        if end:
            return Turn(prompt + inside + end, spoken)
    return Turn(prompt, completion)


def _rendered(
    tokenizer: PreTrainedTokenizerFast, name: str, messages: Sequence[dict[str, Any]], **how: Any
) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **how))
    except Exception as error:  # a template may raise whatever Jinja and its author know
        raise InputError(
            f"the checkpoint's chat template fails on {name}: {error}",
            "it must render every message",
            "mend the row in the source, `updater ingest` its period and begin again; or mend the "
            "template",
        ) from error
