"""A tokenizer of another vocabulary is refused where that can be told, and its own never is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from updater.errors import InputError
from updater.nemotron import checkpoint, files, tokenizer, vocabulary

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "checkpoint"))


def rewrite(path: Path, change: Change) -> None:
    fields = json.loads(path.read_text()) if path.exists() else {}
    change(fields)
    path.write_text(json.dumps(fields))


def test_a_smaller_foreign_one_is_told_by_its_size(folder: Path, tmp_path: Path) -> None:
    """Its special tokens have the same ids, and all of them are below vocab_size."""
    (tmp_path / "other").mkdir()
    texts = ["zzz completely different text qq ww"] * 50
    ids = tokenizer.train(texts, tmp_path / "other", vocabulary_size=265)
    shutil.copy(tmp_path / "other" / "tokenizer.json", folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert ids["vocab_size"] < size
    with pytest.raises(InputError, match=rf"token id 264 at most, .* vocab_size = {size}"):
        checkpoint.check(folder)


@pytest.mark.parametrize(
    ("largest", "vocab_size", "fits"),
    [
        (131_071, 131_072, True),  # Nemotron 3's own
        (130_100, 131_072, True),  # rounded up to a multiple of 1,024
        (128_255, 131_072, False),  # Llama 3's
        (50_256, 131_072, False),  # GPT-2's
        (131_072, 131_072, False),
        (50_256, 50_304, True),  # GPT-2's, to a multiple of 128
        (266, 268, False),
        (267, 268, True),
    ],
)
def test_rows_left_over_are_no_more_than_rounding_up_leaves(
    largest: int, vocab_size: int, fits: bool, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": largest}}}))
    if fits:
        vocabulary.check(tmp_path, {"vocab_size": vocab_size})
        return
    with pytest.raises(InputError, match=f"{largest}.*vocab_size = {vocab_size}"):
        vocabulary.check(tmp_path, {"vocab_size": vocab_size})


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("config.json", {"eos_token_id": 77}, "the token 77 is '.+', a word.*the eos_token_id"),
        ("config.json", {"bos_token_id": 99999}, "the token 99999 is not there.*bos_token_id"),
        ("config.json", {"pad_token_id": 5}, "the token 5 is '.+', a word.*the pad_token_id"),
        ("generation_config.json", {"eos_token_id": [2, 11]}, "the token 11 is .*generation_con"),
        ("tokenizer_config.json", {"eos_token": "<|im_end|>"}, r"no token '<\|im_end\|>'"),
        ("special_tokens_map.json", {"bos_token": {"content": "<go>"}}, "no token '<go>'"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"2": {"content": "<|im_end|>"}}},
            r"'</s>' is the token 2\. tokenizer_config\.json says that '<\|im_end\|>' is",
        ),
        ("generation_config.json", [], "is no JSON object"),
    ],
    ids=str,
)
def test_special_tokens_tell_it(name: str, fields: Any, message: str, folder: Path) -> None:
    if isinstance(fields, dict):
        rewrite(folder / name, lambda found: found.update(fields))
    else:
        (folder / name).write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message):
        checkpoint.check(folder)


def test_what_releases_say_is_no_fault(folder: Path) -> None:
    """More than one end, none given, tokens told by their ids, a pad that is an added token."""
    change: dict[str, dict[str, Any]] = {
        "config.json": {"bos_token_id": None, "eos_token_id": 2},
        "generation_config.json": {"eos_token_id": [2, 1], "pad_token_id": 0},
        "tokenizer_config.json": {
            "added_tokens_decoder": {"2": {"content": "</s>"}, "399999": {"content": "<x>"}},
            "eos_token": {"content": "</s>", "lstrip": False},
            "pad_token": "<of one that was added when it was loaded>",
        },
    }
    for name, fields in change.items():
        rewrite(folder / name, lambda found, fields=fields: found.update(fields))
    checkpoint.check(folder)


def test_an_end_that_is_named_and_not_added_is_no_fault(folder: Path) -> None:
    rewrite(folder / "tokenizer.json", lambda fields: fields.update(added_tokens=[]))
    checkpoint.check(folder)


def test_an_update_keeps_its_bases_tokenizer_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    """Also one that saving it again would have written otherwise."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    tensors = {name: tensor + 1 for name, tensor in load_file(folder / files.SINGLE).items()}
    save_file(tensors, folder / files.SINGLE, {"format": "pt"})
    model, _ = checkpoint.load(folder)
    exported = checkpoint.export(model, folder, tmp_path / "exported")
    saved = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    saved.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / path.name).read_bytes() != path.read_bytes()
    for name in (path.name, "tokenizer_config.json", "special_tokens_map.json"):
        assert (exported / name).read_bytes() == (folder / name).read_bytes(), name
