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
_MARKS = ("<think>", "</think>")
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
    if value is None:
        raise ConversationError("must be there, and not be null")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ConversationError("must be a list of messages, or one as JSON") from None
    if not isinstance(value, list) or len(value) < 2:
        raise ConversationError("must be a list of at least two messages")
    try:
        told: list[Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):  # a date of Parquet's, a number that is none
        raise ConversationError("must hold nothing that JSON has not") from None
    messages = [_message(number, one) for number, one in enumerate(told, start=1)]
    *before, answer = messages
    if answer["role"] != "assistant":
        raise ConversationError("must end with a message of the role assistant, which is learnt")
    if not any(one["role"] == "user" for one in before):
        raise ConversationError("must have a message of the role user before the answer")
    answer = messages[-1] = _thought(answer)
    thinking = answer.get("reasoning_content")
    spoken = _said(answer)
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
    missing = [key for key in ("role", "content") if key not in found]
    if "tool_calls" in found:
        found["tool_calls"] = _calls(number, found["tool_calls"])
        missing = [key for key in missing if key != "content"]
    if missing:
        raise ConversationError(f"message {number} must have a {missing[0]}")
    if found["role"] not in ROLES:
        raise ConversationError(f"the role of message {number} must be one of {', '.join(ROLES)}")
    found.setdefault("content", "")
    if not isinstance(found["content"], str):
        raise ConversationError(f"the content of message {number} must be text")
    if not found["content"].strip():
        if not found.get("tool_calls") and found["role"] != "tool":
            raise ConversationError(f"the content of message {number} must not be blank")
        found["content"] = ""
    if not isinstance(found.get("reasoning_content", ""), str):
        raise ConversationError(f"the reasoning_content of message {number} must be text")
    return found


def _calls(number: int, value: object) -> list[Any]:
    """Their arguments as objects, which templates go through; chat logs have them as JSON."""
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise ConversationError(f"the tool_calls of message {number} must be a list of objects")
    calls: list[Any] = _without_nulls(value)
    for call in calls:
        called = call["function"] if isinstance(call.get("function"), dict) else call
        given = called.get("arguments", {})
        if isinstance(given, str):
            try:
                given = called["arguments"] = json.loads(given)
            except (ValueError, RecursionError):
                given = None
        if not isinstance(given, dict):
            rule = "must be an object, or one as JSON"
            raise ConversationError(f"the arguments of a tool call of message {number} {rule}")
    return calls


def _without_nulls(value: Any) -> Any:
    """Parquet gives each object of a column every key."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _thought(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with its thinking apart from it, in `reasoning_content`, or with none."""
    inside = _THINKING.match(answer["content"])
    spoken = answer["content"][inside.end() :] if inside else answer["content"]
    thinking = [answer.get("reasoning_content", "").strip(), inside[1].strip() if inside else ""]
    if any(mark in text for mark in _MARKS for text in (spoken, *thinking)):
        raise ConversationError("thinking must come first, between <think> and </think>, and once")
    if all(thinking) and thinking[0] != thinking[1]:
        raise ConversationError("thinking must be in reasoning_content or in the content, not both")
    if not spoken and not answer.get("tool_calls"):
        raise ConversationError("the last message must say something after its thinking")
    rest = {k: v for k, v in answer.items() if k not in ("content", "reasoning_content")}
    apart = {"reasoning_content": thinking[0] or thinking[1]} if any(thinking) else {}
    return rest | {"content": spoken} | apart


def _said(message: Mapping[str, Any]) -> str:
    content: str = message["content"]
    return content or json.dumps(message.get("tool_calls", ""), ensure_ascii=False)
