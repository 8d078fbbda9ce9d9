"""The tokenizer beside a checkpoint: trained on texts, copied from a folder, or read.

Called by `updater.nemotron.checkpoint`. Nothing here downloads or runs code from a folder.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from updater.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Ids 0, 1, 2 as in the released config.json.
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_OPTIONAL = ("chat_template.jinja", "added_tokens.json", "vocab.json", "merges.txt")


def train(texts: Iterable[str], folder: Path, *, vocabulary_size: int) -> dict[str, int]:
    """A byte-level BPE learnt from `texts` stands in `folder`; every string can be encoded.

    Returns its config.json fields: vocab_size and the special tokens' ids. Few texts give fewer
    than `vocabulary_size` entries. Deterministic in the texts and their order.

    Raises:
        InputError: there are no texts.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() <= len(_SPECIAL) + 256:
        cure = "give the periods that the model shall learn first"
        raise InputError("no text to train a tokenizer on", "needs some examples", cure)
    bpe.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 262144,
        **_SPECIAL,
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", _SPECIAL)
    return _ids(read(folder))


def copy(source: Path, folder: Path) -> dict[str, int]:
    """The tokenizer in `source` stands in `folder`, byte for byte; its config.json fields.

    Raises:
        InputError: `source` has no tokenizer.json, or it names no end-of-sequence token.
    """
    for name in _FILES + _OPTIONAL:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return _ids(read(folder, where=source))


def read(folder: Path, *, where: Path | None = None) -> "PreTrainedTokenizerFast":
    """The tokenizer in `folder`. `where` is what an error message calls the folder.

    Raises:
        InputError: tokenizer.json is missing or broken, or there is no end-of-sequence token.
    """
    from transformers import PreTrainedTokenizerFast

    path = (where or folder) / "tokenizer.json"
    if not (folder / "tokenizer.json").is_file():
        cure = "give a folder with tokenizer.json"
        raise InputError(f"{path}: not found", "must be there", cure)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception on a broken file
        what = f"{path}: {error}"
        raise InputError(what, "must be a tokenizers file", "fetch it again") from None
    if tokenizer.eos_token_id is None:
        cure = 'name "eos_token" in tokenizer_config.json'
        raise InputError(f"{path}: no end-of-sequence token", "completions end with one", cure)
    return tokenizer


def reader(folder: Path) -> Callable[[str], str | None]:
    """What `has_template` reads by, of a tokenizer's files in the folder."""

    def read(name: str) -> str | None:
        path = folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    return read


def has_template(read: Callable[[str], str | None]) -> bool:
    """Whether there is a chat template, as far as can be told without using it. `read` gives the
    text of a tokenizer's file, None where there is none of that name."""
    if read("chat_template.jinja") is not None:
        return True
    return '"chat_template"' in (read("tokenizer_config.json") or "")


def _ids(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    end = tokenizer.eos_token_id
    ids: dict[str, Any] = {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "pad_token_id": end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        "bos_token_id": end if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        "eos_token_id": end,
    }
    return ids


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """The fields stand in `path` as indented JSON, in their order."""
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
