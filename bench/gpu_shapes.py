"""The models that bench/gpu.py trains, of random weights and tokens, and what a step of each needs.

Imported by bench/gpu.py, which sees to the path, and bench/compiled.py.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from updater.nemotron import checkpoint, presets
from updater.settings import TrainingSettings
from updater.train.encode import Encoded
from updater.train.lesson import Lesson

WARM_UP_STEPS, TIMED_STEPS = 4, 10
LARGE = 8
"""Micro-batches of a large step: 32,768 tokens of the shapes here. Chosen."""
LARGE_WARM_UP, LARGE_TIMED = 1, 3


@dataclass(frozen=True)
class Shape:
    """One model, and how it is trained. `length`: tokens an example. `num_fisher`: examples that
    the estimators are clocked on."""

    name: str
    preset: str
    adapt: str
    batch_size: int
    length: int
    pattern: str = ""
    vocabulary: int = 131072
    num_fisher: int = 32

    @property
    def fields(self) -> dict[str, Any]:
        """The config.json."""
        fields = presets.config_fields(self.preset, self.vocabulary)
        if self.pattern:
            fields |= {
                "hybrid_override_pattern": self.pattern,
                "num_hidden_layers": len(self.pattern),
            }
        return fields


SHAPES = (
    Shape("nano-4b, full", "nemotron-3-nano-4b", "full", 8, 512),
    Shape("nano, 5 of 52 layers, full", "nemotron-3-nano", "full", 8, 512, pattern="MEM*E"),
    Shape("nano, whole, LoRA", "nemotron-3-nano", "lora", 8, 512, num_fisher=16),
)
TOYS = (
    Shape("tiny, full", "nemotron-3-tiny", "full", 4, 32, vocabulary=2048, num_fisher=8),
    Shape("tiny, LoRA", "nemotron-3-tiny", "lora", 4, 32, vocabulary=2048, num_fisher=8),
)


def model_of(shape: Shape, device: str) -> nn.Module:
    """Random weights of the shape, made on the device. What LoRA leaves alone needs no master copy
    where training is in mixed precision."""
    is_short = shape.adapt == "lora" and settings_of(shape, device).precision == "bf16-mixed"
    dtype = torch.bfloat16 if is_short else torch.float32
    return checkpoint.random(shape.fields, device=device, dtype=dtype)


def lesson_of(shape: Shape, num_examples: int, *, rehearsed: float = 0.0) -> Lesson:
    """Random tokens, all examples of one length, half of each its completion."""
    random = np.random.default_rng(0)
    tokens = random.integers(3, shape.vocabulary, num_examples * shape.length, dtype=np.int32)
    examples = Encoded(
        tokens=tokens,
        starts=np.arange(num_examples + 1) * shape.length,
        prompt_lengths=np.full(num_examples, shape.length // 2),
        rows=np.arange(num_examples),
        too_long=(),
    )
    return Lesson(examples, num_examples - round(rehearsed * num_examples))


def settings_of(shape: Shape, device: str, accumulate: int = 1) -> TrainingSettings:
    """As the service trains, at NVIDIA's learning rate for this family."""
    large = LARGE_WARM_UP + LARGE_TIMED
    return TrainingSettings(
        adapt=shape.adapt,
        batch_size=shape.batch_size,
        learning_rate=1e-5,
        epochs=1,
        accumulate=accumulate,
        max_steps=WARM_UP_STEPS + TIMED_STEPS if accumulate == 1 else large,
        precision="bf16-mixed" if device == "cuda" else "32-true",
    )


def flops_per_step(model: nn.Module, shape: Shape) -> float:
    """Of the matrix products with weights that a step needs: 6 a weight and token where all are
    trained, 4 under LoRA; the head's for completion tokens only; scans and attention's own not
    counted."""
    tokens = shape.batch_size * shape.length
    head = model.lm_head.weight.numel() * tokens / 2
    body = 0.0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            body += module.weight.numel() * tokens
        elif isinstance(module, NemotronHExperts):
            share = model.config.num_experts_per_tok / module.num_experts
            body += (module.up_proj.numel() + module.down_proj.numel()) * share * tokens
    return (6 if shape.adapt == "full" else 4) * (body + head)
