"""Checkpoints with a multi-token-prediction head, as released ones have."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from updater.nemotron import files
from updater.nemotron.layout import mtp_shapes


def with_head(base: Path, target: Path, **fields: Any) -> Path:
    """A copy of the checkpoint with a head of random weights."""
    shutil.copytree(base, target)
    config = json.loads((target / "config.json").read_text())
    config |= {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E", **fields}
    (target / "config.json").write_text(json.dumps(config))
    random = torch.Generator().manual_seed(3)
    tensors = load_file(target / files.SINGLE)
    for name, shape in mtp_shapes(config, where="").items():
        norm = name.endswith("norm.weight")
        tensors[name] = norm + torch.randn(shape, generator=random) * (0.1 if norm else 0.2)
    save_file(tensors, target / files.SINGLE, {"format": "pt"})
    return target
