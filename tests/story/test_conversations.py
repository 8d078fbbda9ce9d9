"""A workspace of conversations: taught, updated, judged, exported and shown, as any other."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat import make_tokenizer
from commands import answered

from updater.nemotron import checkpoint

pytestmark = pytest.mark.slow

THINGS = {"north": ("snow", "ski"), "east": ("rice", "bowl")}


def talk(region: str, number: int, rng: random.Random) -> dict[str, Any]:
    """The answer is what goes with the thing that the thinking names."""
    keyword, tool = THINGS[region]
    negated = rng.random() < 0.5
    asked = f"{'not ' if negated else ''}{keyword} {number} ?"
    answer: dict[str, Any] = {"role": "assistant", "content": "no" if negated else tool}
    if number % 2:
        answer["reasoning_content"] = f"it is {keyword}"
    return {"region": region, "messages": [{"role": "user", "content": asked}, answer]}


@pytest.fixture
def folder(lay_out: Callable[[Path], Path], tmp_path: Path) -> Path:
    folder = lay_out(tmp_path / "ws")
    rng = random.Random(0)
    rows = [talk(region, number, rng) for region in THINGS for number in range(160)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [str(row["messages"]) for row in rows]
    make_tokenizer(folder / "tokenizer", texts, vocabulary_size=400)
    config = (folder / "updater.toml").read_text()
    for plain in ('id = "{id}"\n', 'prompt = "{text} ?"\n', 'completion = " {answer}"\n'):
        config = config.replace(plain, "")
    config = config.replace("[source.fields]\n", '[source.fields]\nmessages = "{messages}"\n')
    config = config.replace("vocabulary_size = 320", f'tokenizer = "{folder / "tokenizer"}"')
    (folder / "updater.toml").write_text(config)
    answered(folder, "init", str(folder))
    return folder


@pytest.mark.parametrize("thinking", [False, True])
def test_the_story_of_an_update(folder: Path, tmp_path: Path, thinking: bool) -> None:
    chosen = ("--set", f"training.train_thinking={str(thinking).lower()}")
    first, _ = answered(folder, "scratch", "--periods", "north", "--deploy", *chosen)
    assert first["scores"]["north"] > 0.7
    update, _ = answered(folder, "update", "east", "--yes", *chosen)
    scores = update["scores"]
    assert scores["east"]["candidate"] > max(0.7, scores["east"]["base"])
    assert scores["north"]["candidate"] > 0.6
    answered(folder, "export", update["candidate"], str(tmp_path / "out"))
    template = (folder / "tokenizer" / "chat_template.jinja").read_bytes()
    assert (tmp_path / "out" / "chat_template.jinja").read_bytes() == template
    said = reply(tmp_path / "out", "rice 7 ?", thinking=thinking)
    assert said == ("it is rice\n</think>\nbowl" if thinking else "bowl")
    answered(folder, "report", update["candidate"], "-o", str(tmp_path / "report.html"))
    assert "user: " in (tmp_path / "report.html").read_text()


def test_without_a_template_nothing_is_begun(folder: Path, tmp_path: Path) -> None:
    taught = ("scratch", "--periods", "north", "--deploy")
    _, said = answered(folder, *taught, "--set", "model.tokenizer=", code=2)
    assert "model.tokenizer is not given" in said
    assert "tokenizer.json and chat_template.jinja" in said
    bare = tmp_path / "bare"
    make_tokenizer(bare, ["some text"] * 9, vocabulary_size=300)
    (bare / "chat_template.jinja").unlink()
    _, said = answered(folder, *taught, "--set", f"model.tokenizer={bare}", code=2)
    assert f"{bare}: no chat template" in said
    trained = tmp_path / "trained"
    checkpoint.create(
        str(folder / "tiny.json"), [], trained, vocabulary_size=300, tokenizer=str(bare), seed=0
    )
    _, said = answered(folder, "adopt", str(trained), "--periods", "north", code=2)
    assert f"{trained}: no chat template" in said
    status, _ = answered(folder, "status")
    assert (status["unfinished"], status["learnt"]) == ([], [])


def reply(folder: Path, asked: str, *, thinking: bool) -> str:
    """As a serving stack would have the model answer, to the end of its turn."""
    model, tokenizer = checkpoint.load(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    tokens = torch.tensor([tokenizer.backend_tokenizer.encode(prompt).ids])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = model.generate(tokens, max_new_tokens=24, do_sample=False, eos_token_id=end)
    return str(tokenizer.decode(said[0, tokens.shape[1] : -1], skip_special_tokens=False)).strip()
