"""How much memory an export takes, measured in a process of its own, or in each of several.

    python export_driver.py BASE TARGET
    python -m torch.distributed.run --nproc-per-node 2 export_driver.py BASE TARGET

Fills the model of BASE's config.json with `numbers` (in shards, where there are several processes),
exports it over BASE to TARGET, and writes how many bytes this process grew by at most to
TARGET-RANK.txt. BASE is made where it is not there: one file, in bfloat16.
"""

import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from updater.launch.export import export
from updater.nemotron import checkpoint, files, presets, tokenizer
from updater.nemotron.weights import parts, released, stays_float32
from updater.train.ranks import Ranks
from updater.train.shards import arranged

FIELDS = {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "MEEEE*",
    "hidden_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "ssm_state_size": 16,
    "n_groups": 1,
    "conv_kernel": 4,
    "chunk_size": 32,
    "n_routed_experts": 25,  # the second of two processes has one less
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "moe_shared_expert_intermediate_size": 512,
    "intermediate_size": 512,
    "routed_scaling_factor": 2.5,
}


def make_base(folder: Path) -> None:
    folder.mkdir()
    ids = tokenizer.train(["a bird", "two birds"] * 20, folder, vocabulary_size=300)
    tokenizer.write_json(folder / "config.json", FIELDS | ids)
    model = checkpoint.random(FIELDS | ids, device="cpu", dtype=torch.float32, seed=1)
    tensors = {n: t if stays_float32(n) else t.bfloat16() for n, t in released(model)}
    save_file({n: t.clone() for n, t in tensors.items()}, folder / files.SINGLE, {"format": "pt"})


def numbers(name: str, shape: Sequence[int], first: int = 0) -> torch.Tensor:
    """What the rows from `first` on of the tensor of this released name are filled with: small
    whole numbers, which bfloat16 has."""
    rows = (torch.arange(first, first + shape[0]) % 89 + zlib.crc32(name.encode()) % 97).float()
    return rows.view(-1, *(1 for _ in shape[1:])).expand(*shape)


def status(key: str) -> int:
    """Bytes that /proc says this process has, or had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main(base: Path, target: Path) -> None:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mesh = None
    if world > 1:
        distributed.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (world,))
    ranks = Ranks(rank, world, mesh)
    fields = presets.read_config(base / "config.json")
    model = checkpoint.empty(
        fields, device="cpu", dtype=torch.float32, arranged=arranged(ranks.mesh, gather_bytes=2**40)
    )
    for name, view, first in parts(model.state_dict()):
        view.copy_(numbers(name, view.shape, first))
    ranks.wait()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    export(model.state_dict(), base, target, ranks)
    grown = status("VmHWM") - before
    target.with_name(f"{target.name}-{rank}.txt").write_text(str(grown))
    ranks.wait()
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    if not where.exists():
        make_base(where)
    else:
        main(where, Path(sys.argv[2]))
