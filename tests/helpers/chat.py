"""A tokenizer with a chat template of the shape that Nemotron 3's releases have."""

import json
from collections.abc import Iterable
from pathlib import Path

from updater.nemotron import tokenizer as tokenizers

SPECIAL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEMPLATE = """\
{%- set enable_thinking = enable_thinking if enable_thinking is defined else True %}
{%- set last = namespace(user=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- set thought = message.reasoning_content if message.reasoning_content is defined else '' %}
{%- if loop.index0 < last.user %}{%- set thought = '' %}{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{{- '<think>\\n' ~ thought ~ '\\n</think>\\n' if thought else '<think></think>' }}
{{- message.content ~ '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>' ~ message.content ~ '</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' ~ ('<think>\\n' if enable_thinking else '<think></think>') }}
{%- endif %}
"""


def make_tokenizer(folder: Path, texts: Iterable[str], *, vocabulary_size: int = 400) -> Path:
    """The folder, with a tokenizer in it whose special tokens and template are those of a chat."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizers.train(texts, folder, vocabulary_size=vocabulary_size)
    told = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = told["model"]["vocab"]
    for token in SPECIAL:
        number = len(vocabulary)
        vocabulary[token] = number
        added = dict(told["added_tokens"][0], id=number, content=token)
        told["added_tokens"].append(added)
    (folder / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder
