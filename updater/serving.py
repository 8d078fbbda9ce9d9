"""A registered version that answers: `mlflow.pyfunc.load_model("models:/NAME@deployed")`.

MLflow calls `_load_pyfunc` with the pointer that `store.pointer` wrote; the weights come from the
checkpoint store. Greedy decoding, one prompt at a time: for trying a version out and for small
loads. A serving stack with batching loads what `updater export` writes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.checkpoints import Checkpoints
from store.pointer import DEFAULT_NEW_TOKENS
from updater.errors import InputError
from updater.files import read_json
from updater.settings import PLACEHOLDER

if TYPE_CHECKING:
    from transformers import NemotronHForCausalLM, PreTrainedTokenizerFast

COLUMN = "prompt"
LOCATION = "UPDATER_STORE_CHECKPOINTS"
CACHE = "UPDATER_SERVING_CACHE"


class Completer:
    """A checkpoint in memory that completes prompts."""

    def __init__(self, model: NemotronHForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """The greedy completion of each prompt, without the prompt, up to the end token.

        `model_input` is a list of prompts, one prompt, or a table or dict with a column `prompt`.
        `params` may hold `max_new_tokens`, at least 1.

        Raises:
            InputError: anything else.
        """
        limit = (params or {}).get("max_new_tokens", DEFAULT_NEW_TOKENS)
        # Numbers of NumPy and of JSON alike, as MLflow hands them on.
        if isinstance(limit, bool) or not hasattr(limit, "__index__") or limit < 1:
            raise InputError(f"max_new_tokens: {limit!r}", "must be a whole number of at least 1")
        return [self._complete(prompt, int(limit)) for prompt in prompts_of(model_input)]

    def _complete(self, prompt: str, max_new_tokens: int) -> str:
        """One prompt at a time: Mamba layers carry the padding of a batch into the answer."""
        import torch
        from transformers import GenerationConfig

        ids = self._tokenizer(prompt, return_tensors="pt")["input_ids"].to(self._model.device)
        if ids.shape[1] == 0:
            raise InputError("prompt: ''", "must hold at least one token")
        # Not the folder's generation_config.json, which may ask for sampling.
        greedy = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self._ends(),
            pad_token_id=self._tokenizer.pad_token_id,
        )
        model: Any = self._model  # transformers annotates the self of `generate` with a protocol
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
        return str(self._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    def _ends(self) -> list[int]:
        """The token that completions were trained to end with, and those of the release."""
        released = getattr(self._model.generation_config, "eos_token_id", None) or []
        ends = {
            self._tokenizer.eos_token_id,
            *(released if isinstance(released, list) else [released]),
        }
        return sorted(ends)


def prompts_of(model_input: Any) -> list[str]:
    """The prompts in what a caller of `predict` gave.

    Raises:
        InputError: it is no list of strings, string, or table or dict with a column `prompt`.
    """
    given = model_input
    if isinstance(given, Mapping) or hasattr(given, "columns"):
        if COLUMN not in given:
            raise InputError(
                f"columns {', '.join(map(str, given.keys()))}", f"one must be called {COLUMN}"
            )
        given = given[COLUMN]
    if isinstance(given, str):
        given = [given]
    prompts = list(given) if isinstance(given, Sequence) or hasattr(given, "__iter__") else [given]
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise InputError(
                f"prompt {prompt!r}", "must be text", 'give a list such as ["...", "..."]'
            )
    return prompts


def open_pointer(pointer: Path) -> Path:
    """The local folder of the checkpoint that `pointer` (checkpoint.json) names, all files there.

    A store that has moved is named by UPDATER_STORE_CHECKPOINTS; downloads are kept in
    UPDATER_SERVING_CACHE, or in ~/.cache/updater.

    Raises:
        NotFoundError: the store has no such checkpoint.
        UnreachableError, StoreError: the store can't be used, or a file is damaged.
    """
    named = read_json(pointer)
    recorded = named["uri"].removesuffix(f"/{named['digest']}")
    moved = os.environ.get(LOCATION, "")
    # Which workspace's it is, the pointer does not say; where the store has places for many, the
    # recorded address is of the right one.
    location = recorded if PLACEHOLDER in moved else moved or recorded
    cache = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "updater" / "checkpoints")
    return Checkpoints(location, cache).local(named["digest"])


def _load_pyfunc(path: str) -> Completer:
    """Called by MLflow with the pointer's path; a GPU is used where there is one."""
    import torch

    from updater.nemotron import checkpoint

    folder = open_pointer(Path(path))
    stored = read_json(folder / "config.json")
    dtype = getattr(torch, str(stored.get("torch_dtype") or stored.get("dtype") or "float32"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Completer(*checkpoint.load(folder, device=device, dtype=dtype, quantized=True))
