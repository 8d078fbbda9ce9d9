"""Which numbers a checkpoint's weights are: as they lie on the disk, and as it is asked.

Not how one is trained (`updater.train.adapt`). Called by that, by `updater.steps.student`,
`updater.verify` and `updater.launch`.
"""

from collections import Counter
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.nemotron import checkpoint
from updater.nemotron.validate import TRAINABLE, Contents
from updater.nemotron.weights import stays_float32


def released_dtype(contents: Contents) -> torch.dtype:
    """bfloat16 where that is what most matrices lie on the disk in; else float32. Of a quantized
    checkpoint those that are not, which are of its base's dtype."""
    matrices = (entry for entry in contents.entries.values() if len(entry.shape) > 1)
    wide = (entry.dtype for entry in matrices if entry.dtype in TRAINABLE)
    most, _ = Counter(wide).most_common(1)[0]
    return torch.bfloat16 if most == "BF16" else torch.float32


def exact_dtype(contents: Contents) -> torch.dtype:
    """The smaller of bfloat16 and float32 in which a model loses no digit that lies on the disk."""
    kept = (entry.dtype for name, entry in contents.entries.items() if not stays_float32(name))
    return torch.bfloat16 if all(dtype == "BF16" for dtype in kept) else torch.float32


def served_dtype(contents: Contents, device: str) -> torch.dtype:
    """What a model is asked in. On a GPU that in which it was released and will be served: half
    the memory of float32, and many times as fast. On a CPU float32, whatever was released."""
    return released_dtype(contents) if device.startswith("cuda") else torch.float32


def load_aside(folder: Path) -> NemotronHForCausalLM:
    """The checkpoint's weights in the CPU's memory, to the last digit and no larger, beside a model
    that is trained.

    Raises:
        InputError: as `checkpoint.load`.
    """
    dtype = exact_dtype(checkpoint.check(folder))
    return checkpoint.load(folder, device="cpu", dtype=dtype)[0]


def load_as_served(
    folder: Path, *, device: str | None = None, arranged: checkpoint.Arranged | None = None
) -> tuple[NemotronHForCausalLM, PreTrainedTokenizerFast]:
    """As `checkpoint.load`, in the dtype that it is asked in; it may be quantized."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = served_dtype(checkpoint.check(folder, quantized=True), device)
    return checkpoint.load(folder, device=device, dtype=dtype, arranged=arranged, quantized=True)
