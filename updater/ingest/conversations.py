"""A row's conversation, as chat data has it, becomes an example: its last answer is what is learnt.

Not its text: that is made by the chat template of the checkpoint that learns it
(`updater.train.conversations`), so that examples outlive a change of template. Called by
`updater.ingest.rows`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

ROLES = ("system", "developer", "user", "assistant", "tool")
_THINKING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


class Conversation(NamedTuple):
    """`messages`: all of them, as JSON. `prompt` and `completion`: what is before the last answer,
    and that, for people and for telling examples apart."""

    messages: str
    prompt: str
    completion: str


class ConversationError(ValueError):
    """It can't be learnt; the message is the rule that it breaks."""


def conversation(value: object) -> Conversation:
    """Of a list of messages, or of one as JSON (in a CSV file): {"role", "content"} and whatever
    else the template reads, as "tool_calls". Thinking stands in the answer's "reasoning_content",
    or in its content between <think> and </think>.

    Raises:
        ConversationError: it is none, or does not end with an answer.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ConversationError("must be a list of messages, or one as JSON") from None
    if not isinstance(value, list) or len(value) < 2:
        raise ConversationError("must be a list of at least two messages")
    messages = [_message(number, one) for number, one in enumerate(value, start=1)]
    *before, answer = messages
    if answer["role"] != "assistant":
        raise ConversationError("must end with a message of the role assistant, which is learnt")
    if not any(one["role"] == "user" for one in before):
        raise ConversationError("must have a message of the role user before the answer")
    answer = messages[-1] = _thought(answer)
    thinking = answer.get("reasoning_content")
    spoken = answer["content"] or json.dumps(answer["tool_calls"], ensure_ascii=False)
    return Conversation(
        messages=json.dumps(messages, ensure_ascii=False, separators=(",", ":")),
        prompt="\n".join(f"{one['role']}: {_said(one)}" for one in before),
        completion=f"<think>{thinking}</think>{spoken}" if thinking else spoken,
    )


def _message(number: int, value: object) -> dict[str, Any]:
    """Without what is null: Parquet gives each message every key."""
    if not isinstance(value, Mapping):
        raise ConversationError(f"message {number} must be an object with role and content")
    found = {key: each for key, each in value.items() if each is not None}
    if found.get("role") not in ROLES:
        raise ConversationError(f"the role of message {number} must be one of {', '.join(ROLES)}")
    found.setdefault("content", "")
    if not isinstance(found["content"], str):
        raise ConversationError(f"the content of message {number} must be text")
    if not found["content"].strip() and not found.get("tool_calls"):
        raise ConversationError(f"the content of message {number} must not be blank")
    if not isinstance(found.get("reasoning_content", ""), str):
        raise ConversationError(f"the reasoning_content of message {number} must be text")
    return found


def _thought(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with its thinking apart from it, in `reasoning_content`, or with none."""
    inside = _THINKING.match(answer["content"])
    if inside is None:
        return {k: v for k, v in answer.items() if k != "reasoning_content" or v.strip()}
    spoken = answer["content"][inside.end() :]
    if not spoken and not answer.get("tool_calls"):
        raise ConversationError("the last message must say something after its thinking")
    thinking = answer.get("reasoning_content", "") or inside[1]
    apart = {"reasoning_content": thinking.strip()} if thinking.strip() else {}
    rest = {k: v for k, v in answer.items() if k not in ("content", "reasoning_content")}
    return rest | {"content": spoken} | apart


def _said(message: Mapping[str, Any]) -> str:
    content: str = message["content"]
    return content or json.dumps(message["tool_calls"], ensure_ascii=False)
