"""What memory an update takes, reckoned before there is any of it.

Weights, gradients and optimizer are counted; what a forward pass keeps for the way back is read off
a pass of the very model on fake tensors, which have shapes and no memory. Called by
`updater.doctor`.

Shape suffixes: b examples of a batch, l positions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from transformers.models.nemotron_h import modeling_nemotron_h
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers.formats import kept, num_bytes
from updater.nemotron.checkpoint import build
from updater.nemotron.layout import pattern
from updater.nemotron.weights import stays_float32
from updater.settings import RegularizerSettings, TrainingSettings
from updater.settings.regularizing import HOLD_WEIGHTS
from updater.train.activations import checkpointed
from updater.train.adapt import adapted, freeze
from updater.train.likelihood import LOGITS_BYTES

CONTEXT_BYTES = 2**30
"""What CUDA, its libraries and the allocator's odds and ends take on a GPU: chosen, about that."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one device, part by part. `activations`: at the end of a forward pass, the weights
    that autocast casts among them; `recomputed`: of the one layer that is computed again on the way
    back; `logits`: of one piece of the loss; `gathered`: of shards, what is whole while a layer
    computes."""

    weights: int
    gradients: int
    optimizer: int
    anchor: int
    importance: int
    activations: int
    recomputed: int
    logits: int
    gathered: int = 0

    @property
    def least(self) -> int:
        """What is there at once, however short the texts are."""
        return self.weights + self.gradients + self.optimizer + self.anchor + self.importance

    @property
    def peak(self) -> int:
        """The most at any time: at the end of a forward pass, when a step's gradients are gone, or
        when the last gradient is there and all activations are gone but those of a layer that is
        computed again."""
        held = self.weights + self.optimizer + self.anchor + self.importance
        always = held + self.gathered
        passing = self.activations + max(self.logits, self.recomputed)
        return always + max(passing, self.gradients + self.recomputed)


def footprint(
    fields: Mapping[str, Any],
    *,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
    frozen_dtype: torch.dtype = torch.float32,
    kernels: bool = False,
) -> Footprint:
    """Of an update of the checkpoint with these fields by these settings, on each device.

    Args:
        fields: a config.json's.
        length: tokens of every example of a batch.
        frozen_dtype: of the weights that take no gradient.
        kernels: Mamba-2 is mamba-ssm's fused one, which keeps less than PyTorch's operators do.
    """
    letters = pattern(fields, where="config.json")
    shards = training.num_processes if training.sharded else 1
    training = replace(training.on_one_device, batch_size=training.share)

    def measured(layers: str, *, checkpointed: bool) -> Counter[str]:
        changed = {"hybrid_override_pattern": layers, "num_hidden_layers": len(layers)}
        how = replace(training, activation_checkpointing=checkpointed)
        return _measured(
            dict(fields) | changed, how, regularizer, length, frozen_dtype, kernels=kernels
        )

    # Everything adds up over layers: one and two of each kind tell what one of it takes.
    total: Counter[str] = Counter()
    largest = ends = recomputed = 0
    again = training.activation_checkpointing
    for kind in dict.fromkeys(letters):
        alone, twice = (measured(n * kind, checkpointed=again) for n in (1, 2))
        twice.subtract(alone)
        if again:
            whole = [measured(n * kind, checkpointed=False)["kept"] for n in (1, 2)]
            recomputed = max(recomputed, whole[1] - whole[0])
        if not total:
            total.update(alone)
            total.subtract(twice)
            ends = total["trained"] + total["frozen"]
        largest = max(largest, twice["trained"] + twice["frozen"])
        for _ in range(letters.count(kind)):
            total.update(twice)
    holds = regularizer.method in HOLD_WEIGHTS and not regularizer.offload
    num_tokens = training.batch_size * length
    width = 2 if training.precision == "32-true" else 1  # of what was read off in bfloat16
    return Footprint(
        weights=(4 * total["trained"] + frozen_dtype.itemsize * total["frozen"]) // shards,
        gradients=4 * total["trained"] // shards,
        optimizer=8 * total["trained"] // shards,
        anchor=total["anchor"] // shards if holds else 0,
        importance=total["importance"] // shards if holds and regularizer.method != "l2" else 0,
        activations=width * total["kept"],
        recomputed=width * recomputed,
        # The logits, their gradient, and the log-softmax between.
        logits=3 * min(4 * num_tokens * fields["vocab_size"], LOGITS_BYTES),
        # The layer that computes, the next one on its way, and a gradient before it is cut; from
        # the forward pass to the end of the way back, embeddings and output head.
        gathered=4 * (3 * largest + 2 * ends) if shards > 1 else 0,
    )


def _measured(
    fields: dict[str, Any],
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
    frozen_dtype: torch.dtype,
    *,
    kernels: bool,
) -> Counter[str]:
    """Parameters trained and frozen; bytes of the anchor, the importance and what is kept."""
    with ExitStack() as block:
        with torch.device("meta"):
            model = build(fields)
            freeze(model, training)
            adaptation = block.enter_context(adapted(model, training))
        block.enter_context(checkpointed(model, on=training.activation_checkpointing))
        found: Counter[str] = Counter()
        for name, parameter in model.named_parameters():
            found["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
            if not parameter.requires_grad and not stays_float32(name):
                parameter.data = parameter.data.to(frozen_dtype)
        held = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        if adaptation.factors:
            held = {name: adaptation.weights[name].detach() for name in adaptation.factors}
        found["anchor"] = sum(weight.nbytes for weight in held.values())
        found["importance"] = num_bytes(kept(held, regularizer.format))
        if training.precision == "32-true":  # nothing is cast, so that no cast weight is kept
            for parameter in model.parameters():
                parameter.data = parameter.data.bfloat16()
        found["kept"] = kept_bytes(model, training.batch_size, length, kernels=kernels)
    return found


def kept_bytes(
    model: NemotronHForCausalLM, batch_size: int, length: int, *, kernels: bool = False
) -> int:
    """What autograd keeps of a forward pass over so many tokens under bfloat16 autocast, every
    tensor's memory once: the weights that autocast casts too, the model's own not. The model may
    be on the meta device: its weights are not looked at."""
    found: dict[int, int] = {}
    alive = []  # a storage that is gone could have its name taken by another

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    model.train()
    with FakeTensorMode():
        weights = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(tensor.requires_grad)
            for name, tensor in chain(model.model.named_parameters(), model.model.named_buffers())
        }
        tokens_bl = torch.zeros(batch_size, length, dtype=torch.int64)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
            _fused() if kernels else nullcontext(),
            _without_mask(),
        ):
            given = {"input_ids": tokens_bl, "use_cache": False}
            functional_call(model.model, weights, (), given)
        own = {weight.untyped_storage()._cdata for weight in weights.values()}
    return sum(size for storage, size in found.items() if storage not in own)


@contextmanager
def _without_mask() -> Iterator[None]:
    """In the block attention is causal by itself, as it is of rows without padding. For fake
    tensors transformers would make a mask of length times length."""
    plain = modeling_nemotron_h.create_causal_mask
    modeling_nemotron_h.create_causal_mask = lambda **_: None
    try:
        yield
    finally:
        modeling_nemotron_h.create_causal_mask = plain


class _FusedScan(torch.autograd.Function):
    """Keeps what mamba-ssm's MambaSplitConv1dScanCombinedFn keeps of as many tokens (2.3.2: the
    projected states and the scan's output), and computes nothing."""

    @staticmethod
    def forward(ctx: Any, projected_blp: Tensor, out_weight: Tensor) -> Tensor:
        hidden, inner = out_weight.shape
        ctx.save_for_backward(
            projected_blp, projected_blp.new_empty(*projected_blp.shape[:2], inner)
        )
        return projected_blp.new_empty(*projected_blp.shape[:2], hidden)


@contextmanager
def _fused() -> Iterator[None]:
    """In the block Mamba-2 layers keep what the fused kernel keeps: fake tensors only."""
    plain = modeling_nemotron_h.mamba2_split_conv1d_scan_combined

    def fused(projected_blp: Tensor, *_: Any, outproj_weight: Tensor, **__: Any) -> Tensor:
        return _FusedScan.apply(projected_blp, outproj_weight)

    modeling_nemotron_h.mamba2_split_conv1d_scan_combined = fused
    try:
        yield
    finally:
        modeling_nemotron_h.mamba2_split_conv1d_scan_combined = plain
