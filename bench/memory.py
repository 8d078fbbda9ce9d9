"""What memory an update of long texts takes, as `updater doctor` reckons it.

    python bench/memory.py            # prints the table, in seconds; no GPU is needed
    python bench/memory.py --write    # and writes bench/results/memory.md

Nothing is allocated: shapes of the real checkpoint on the meta device
(`updater.train.footprint`, which says what is counted). LoRA with EWC on Nano, one text a batch,
bfloat16, fused Mamba-2 kernels.
"""

import argparse
import datetime
from pathlib import Path

import torch

from updater.nemotron import presets
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train import footprint as reckoned

RESULTS = Path(__file__).parent / "results" / "memory.md"
ARCHITECTURE = "nemotron-3-nano"
LENGTHS = (4_096, 16_384, 65_536, 131_072, 262_144)
GPU = 139
GIB = 2**30


def row(length: int) -> str:
    """Of one length: a line of the table."""
    fields = presets.config_fields(ARCHITECTURE, 131_072)
    cells = [f"{length:,}"]
    for checkpointed in (False, True):
        found = reckoned.footprint(
            fields,
            training=TrainingSettings(
                adapt="lora",
                precision="bf16-mixed",
                batch_size=1,
                activation_checkpointing=checkpointed,
            ),
            regularizer=RegularizerSettings(format="factored"),
            length=length,
            frozen_dtype=torch.bfloat16,
            kernels=True,
        )
        peak = found.peak + reckoned.CONTEXT_BYTES
        kept = found.activations + found.recomputed
        cells += [f"{kept / GIB:,.1f}", f"{peak / GIB:,.0f}"]
    whole = 3 * 4 * length * fields["vocab_size"]
    cells += [f"{whole / GIB:,.1f}", f"{found.logits / GIB:,.1f}"]
    cells.append("yes" if peak <= reckoned.SPARE * GPU * GIB else "no")
    return f"| {' | '.join(cells)} |"


def table() -> list[str]:
    """All lines of the page."""
    lines = [
        "# Memory of long texts",
        "",
        f"`python bench/memory.py`, {datetime.date.today()}: reckoned, not measured. Of short",
        "texts on an H200 what was reckoned was at most 8 % below what was measured",
        "([gpu.md](gpu.md)); of a small model on a CPU it is 5 % below to 10 % above what",
        "PyTorch's allocator gives out (tests/updater/core/test_footprint_measured.py).",
        "",
        "GiB of one GPU for an update of the whole Nano: LoRA and EWC with a factored importance,",
        "one text a batch, bf16-mixed, weights in bfloat16, fused Mamba-2 kernels. Logits are",
        "those of every position of the text, with their gradient: whole, and as they are made, in",
        f"pieces. Fits: {GPU} GiB, checkpointed, logits in pieces.",
        "",
        "| tokens | activations | peak | activations, checkpointed | peak, checkpointed |"
        " logits, whole | logits, in pieces | fits |",
        f"|{'--:|' * 8}",
    ]
    for length in LENGTHS:
        lines.append(row(length))
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    page = "\n".join(table()) + "\n"
    if arguments.write:
        RESULTS.write_text(page, encoding="utf-8")
