"""Releases of the true shape and size, and the machines that are to update them: without either's
memory."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

from updater import doctor
from updater.nemotron import presets
from updater.nemotron.layout import mtp_shapes, tensor_shapes
from updater.settings import TrainingSettings

BYTES = {"BF16": 2, "F32": 4, "U8": 1}
GPU = doctor.Machine("cuda", ("NVIDIA H200",), 139 * 2**30, 16, kernels=True)
EIGHT = dataclasses.replace(GPU, names=GPU.names * 8)


def released(
    folder: Path, name: str, *, dtype: str = "BF16", head: bool = True, vocabulary: int = 131_072
) -> Path:
    """A checkpoint of the release's true shape and size, without its bytes: a file with a hole."""
    folder.mkdir()
    fields = presets.config_fields(name, vocabulary)
    (folder / "config.json").write_text(json.dumps(fields))
    special = [{"id": number, "content": f"<{number}>"} for number in range(3)]
    tokens = {"added_tokens": special, "model": {"vocab": {"a": vocabulary - 1}}}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    shapes = tensor_shapes(fields, where="") | (mtp_shapes(fields, where="") if head else {})
    header: dict[str, Any] = {}
    end = 0
    for tensor, shape in shapes.items():
        kept = "F32" if ".gate." in tensor else dtype
        size = BYTES[kept]
        for length in shape:
            size *= length
        header[tensor] = {"dtype": kept, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return folder


def machines(nodes: int, **changes: Any) -> TrainingSettings:
    """Of an update by so many machines like `EIGHT`, one example on each GPU a pass."""
    given = {
        "devices": 8,
        "nodes": nodes,
        "nodes_for": "all",
        "rendezvous": "auto",
        "strategy": "fsdp",
        "precision": "bf16-mixed",
        "batch_size": 8 * nodes,
        "activation_checkpointing": True,
    }
    return TrainingSettings(**(given | changes))
