"""Checkpoints to cut, and what plain transformers makes of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from heads import with_head
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from updater.nemotron import checkpoint, files
from updater.nemotron.parts import listed

TOKENS = torch.arange(3, 99).reshape(3, 32)


def lively(fields: dict[str, Any], folder: Path, *, head: bool = False) -> Path:
    """A checkpoint with random weights so large that everything in it has its say."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    made = checkpoint.create(
        *(str(folder / "config.json"), ["one bird", "two birds"] * 20, folder / "made"),
        vocabulary_size=300,
        seed=1,
    )
    if head:
        made = with_head(made, folder / "with-head")
    random = torch.Generator().manual_seed(7)

    def enliven(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            scale = 0.3 if tensor.ndim > 1 or name.endswith("bias") else 0.1
            around = 1.0 if tensor.ndim == 1 and name.endswith(("weight", ".D")) else 0.0
            tensors[name] = around + scale * torch.randn(tensor.shape, generator=random)

    return edited(made, folder / "checkpoint", enliven)


def edited(base: Path, target: Path, edit: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a checkpoint of one file, with its tensors edited."""
    shutil.copytree(base, target)
    tensors = load_file(base / files.SINGLE)
    edit(tensors)
    save_file(tensors, target / files.SINGLE, {"format": "pt"})
    return target


@torch.no_grad()
def said(folder: Path, prepare: Callable[[Any], None] = lambda model: None) -> Tensor:
    """Logits of plain transformers, whose weights are all the folder's."""
    model, told = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    assert not any(told.values()), told
    prepare(model)
    logits: Tensor = model.eval()(TOKENS).logits
    return logits


def chosen(fields: dict[str, Any], sizes: dict[str, int]) -> dict[str, Tensor]:
    """By chance, which parts stay: so many of each sort."""
    random = torch.Generator().manual_seed(5)
    kinds = ("neurons", "experts", "heads", "layers")
    return {
        parts.key: parts.highest(torch.rand(parts.count, generator=random), sizes[parts.size])
        for kind in kinds
        for parts in listed(fields, kind, where="config.json")
        if parts.size in sizes
    }
