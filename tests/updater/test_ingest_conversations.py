"""Conversations are ingested: what an example of them is, and what is refused, by the message."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingesting import hashed, read, table

from updater.ingest.conversations import ConversationError, conversation
from updater.settings import FieldTemplates

ASKED = {"role": "user", "content": "Which?"}
CALL = {"name": "look", "arguments": {"at": "it"}}
TOOL = {"tool_calls": [{"function": {"name": "look", "arguments": {"at": "it"}}}]}


def answer(content: str | None = "This", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def given_by(**fields: str) -> Any:
    return hashed(prompt="", completion="", messages="{messages}", **fields)


def row(n: int, *messages: Any, **more: Any) -> dict[str, Any]:
    talk = messages or ({"role": "user", "content": f"Which {n}?"}, answer(f"This {n % 3}"))
    return {"messages": list(talk), "domain": "home", **more}


def test_the_last_answer_is_the_completion() -> None:
    found = conversation(
        [{"role": "system", "content": "Be brief."}, ASKED, answer("That"), ASKED, answer()]
    )
    assert found.prompt == "system: Be brief.\nuser: Which?\nassistant: That\nuser: Which?"
    assert found.completion == "This"
    assert json.loads(found.messages)[-1] == answer()


@pytest.mark.parametrize(
    "last",
    [
        answer("<think>hm\n</think>\n\nThis"),
        answer("This", reasoning_content="hm"),
        answer("<think></think>This", reasoning_content="hm"),
    ],
)
def test_thinking_stands_apart_however_it_came(last: dict[str, Any]) -> None:
    found = conversation([ASKED, last])
    assert found.completion == "<think>hm</think>This"
    assert json.loads(found.messages)[-1] == answer("This", reasoning_content="hm")


@pytest.mark.parametrize(
    "last", [answer("<think></think>This"), answer(reasoning_content=" "), answer(name=None)]
)
def test_no_thinking_is_none(last: dict[str, Any]) -> None:
    assert json.loads(conversation([ASKED, last]).messages)[-1] == answer()


def test_a_call_of_a_tool_is_an_answer() -> None:
    found = conversation([ASKED, answer(None, **TOOL)])
    assert json.loads(found.completion) == TOOL["tool_calls"]
    reply = {"role": "tool", "content": "seen"}
    assert "tool: seen" in conversation([ASKED, answer("", **TOOL), reply, answer()]).prompt


@pytest.mark.parametrize("wrapped", [True, False])
def test_arguments_as_chat_logs_have_them_are_objects_for_the_template(wrapped: bool) -> None:
    logged = CALL | {"arguments": json.dumps(CALL["arguments"])}
    calls = [{"type": "function", "function": logged} if wrapped else logged]
    found = json.loads(conversation([ASKED, answer(None, tool_calls=calls)]).messages)
    call = found[-1]["tool_calls"][0]
    assert (call["function"] if wrapped else call) == CALL


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, "must be there, and not be null"),
        ({"messages": []}, "list of at least two"),
        ("Which? This", "or one as JSON"),
        ([answer()], "list of at least two"),
        ([ASKED, ASKED], "end with a message of the role assistant"),
        ([{"role": "system", "content": "x"}, answer()], "of the role user before"),
        ([ASKED, "This"], "message 2 must be an object"),
        ([{"role": "human", "content": "x"}, answer()], "role of message 1 must be one of system"),
        ([{"Role": "user", "content": "x"}, answer()], "message 1 must have a role"),
        ([{"role": "user"}, answer()], "message 1 must have a content"),
        ([ASKED, answer(None)], "message 2 must have a content"),
        ([ASKED, answer("<think>never closed")], "thinking must come first"),
        ([ASKED, answer("so <think>hm</think> This")], "thinking must come first"),
        ([ASKED, answer("<think>a</think><think>b</think>This")], "thinking must come first"),
        ([ASKED, answer("<think>a</think>b", reasoning_content="c")], "not both"),
        ([ASKED, answer(None, tool_calls={"name": "look"})], "tool_calls of message 2 must be"),
        ([ASKED, answer(None, tool_calls=[CALL | {"arguments": "{at"}])], "must be an object, or"),
        ([ASKED, answer(None, tool_calls=[CALL | {"arguments": [1]}])], "must be an object, or"),
        ([ASKED, answer(" ")], "content of message 2 must not be blank"),
        ([ASKED, answer(["This"])], "content of message 2 must be text"),
        ([ASKED, answer(reasoning_content=["hm"])], "reasoning_content of message 2 must be text"),
        ([ASKED, answer("<think>hm</think>")], "must say something after its thinking"),
    ],
)
def test_what_can_not_be_learnt_says_why(value: Any, rule: str) -> None:
    with pytest.raises(ConversationError, match=rule):
        conversation(value)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(st.sampled_from(["user", "system", "tool"]), texts)), texts, texts)
def test_nothing_of_a_conversation_is_lost(
    before: list[tuple[str, str]], asked: str, said: str
) -> None:
    messages = [{"role": role, "content": text} for role, text in before]
    messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    try:
        found = conversation(messages)
    except ConversationError:
        assert "think>" in said
        return
    kept = json.loads(found.messages)
    assert kept[:-1] == messages[:-1]
    assert kept[-1]["content"] in said
    assert conversation(found.messages) == found


def test_a_period_of_them(tmp_path: Path) -> None:
    rows = [row(n) for n in range(30)]
    rows += [row(0), row(40, ASKED, ASKED), row(41, ASKED, answer("a\0b"))]
    reading, summary = read(tmp_path, rows, given_by())
    assert reading.num_rows_read == 33
    assert (summary.num_quarantined, summary.num_duplicates) == (2, 1)
    assert summary.num_train + summary.num_holdout == 30
    assert summary.schema["messages"] == "list"
    kept = table(tmp_path, "train") + table(tmp_path, "holdout")
    for one in kept:
        asked, said = json.loads(one["messages"])
        assert one["prompt"] == f"user: {asked['content']}"
        assert one["completion"] == said["content"]
    rules = [one["rule"] for one in table(tmp_path, "quarantine")]
    assert any("role assistant" in rule for rule in rules)


def test_rows_that_differ_in_thinking_alone_are_two(tmp_path: Path) -> None:
    rows = [row(n) for n in range(30)]
    rows += [row(99, ASKED, answer(reasoning_content=f"so {n}")) for n in range(2)]
    _, summary = read(tmp_path, rows, given_by())
    assert summary.num_train + summary.num_holdout == 32


def test_csv_and_parquet_and_lines_are_alike(tmp_path: Path) -> None:
    rows = [row(n, ASKED | {"content": f"Which {n}?"}, answer(f"This {n}")) for n in range(30)]
    found = []
    for suffix in ("jsonl", "csv", "parquet"):
        folder = tmp_path / suffix
        folder.mkdir()
        path = folder / f"rows.{suffix}"
        if suffix == "jsonl":
            path.write_text("".join(json.dumps(one) + "\n" for one in rows))
        elif suffix == "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["messages", "domain"])
                writer.writeheader()
                writer.writerows([r | {"messages": json.dumps(r["messages"])} for r in rows])
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
        settings = given_by()
        source = {"uri": path.name}
        read(folder, None, _from(settings, **source))
        found.append(table(folder, "train"))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 10


def _from(settings: Any, **source: str) -> Any:
    import dataclasses

    return dataclasses.replace(settings, source=dataclasses.replace(settings.source, **source))


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"messages": "{m}", "prompt": "{p}"}, "messages, prompt: a conversation is"),
        ({"messages": "a {m}"}, 'messages: must name one column and nothing else, as "{messages}"'),
        ({}, "prompt: must be given, and not be empty, where there are no messages"),
    ],
)
def test_a_conversation_is_prompt_and_completion(fields: dict[str, str], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        FieldTemplates(**fields, period="{domain}")
