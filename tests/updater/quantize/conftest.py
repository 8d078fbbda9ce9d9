"""A Nemotron-H small enough for tests whose columns groups of 32 divide, and as it is released."""

import json
from pathlib import Path

import pytest
import torch
from heads import with_head
from safetensors.torch import load_file, save_file

from updater.nemotron import checkpoint, files
from updater.nemotron.weights import stays_float32

# Layers 2 and 5 are attention; the Mamba layer 4 is right before one, 0 is not.
WIDE = {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "ME*-M*E",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 64,
    "intermediate_size": 128,
    "routed_scaling_factor": 2.5,
    "time_step_min": 0.001,
}


def made(fields: dict[str, object], folder: Path) -> Path:
    """A checkpoint of random float32 weights and that shape."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    texts = [f"example {n} of a text" for n in range(50)]
    return checkpoint.create(
        str(folder / "config.json"), texts, folder / "checkpoint", vocabulary_size=300, seed=1
    )


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of float32 in one file. Not to be written to."""
    return made(WIDE, tmp_path_factory.mktemp("wide") / "made")


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Nano-4B without experts, which transformers keeps in one tensor. Not to be written to."""
    fields = WIDE | {"hybrid_override_pattern": "M-*-M*-"}
    return made(fields, tmp_path_factory.mktemp("dense") / "made")


@pytest.fixture(scope="session")
def release(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of bfloat16 but for what stays float32, in two shards, with a multi-token-prediction head and
    other files. Not to be written to."""
    folder = with_head(base, tmp_path_factory.mktemp("released") / "release")
    tensors = {
        name: tensor if stays_float32(name) else tensor.bfloat16()
        for name, tensor in load_file(folder / files.SINGLE).items()
    }
    (folder / files.SINGLE).unlink()
    names, where = list(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1, "kind": "release"}, "weight_map": where}
    (folder / files.INDEX).write_text(json.dumps(index))
    (folder / "chat_template.jinja").write_text("{{ messages }}\r\n")
    (folder / "extra").mkdir()
    (folder / "extra" / "parser.py").write_text("raise RuntimeError('run')\n")
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
