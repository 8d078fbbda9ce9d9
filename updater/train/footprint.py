"""What memory an update takes, reckoned before there is any of it.

Weights, gradients and optimizer are counted; what a forward pass keeps for the way back is read off
a pass of the very model on fake tensors, which have shapes and no memory. Called by
`updater.doctor`.

Shape suffixes: b examples of a batch, l positions.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from regularizers.formats import FORMATS, kept, num_bytes
from updater.nemotron.checkpoint import build
from updater.nemotron.experts import KEPT_BYTES
from updater.nemotron.layout import pattern
from updater.nemotron.weights import stays_float32
from updater.settings import RegularizerSettings, TrainingSettings
from updater.settings.regularizing import HOLD_WEIGHTS
from updater.train.activations import checkpointed
from updater.train.adapt import Adaptation, adapted, freeze
from updater.train.gathered import ExpertPieces, expert_pieces, gathered_bytes
from updater.train.kept import kept_bytes
from updater.train.likelihood import LOGITS_BYTES
from updater.train.shards import gathered_in, multiplied


@dataclass(frozen=True)
class Pass:
    """How a model goes forward. `checkpointed`: each layer is computed again on the way back;
    `in_pieces`: routed experts are gathered so; `merged`: weights take the gradients, and no
    low-rank factors do."""

    checkpointed: bool = False
    in_pieces: bool = False
    merged: bool = False


Measured = Callable[[dict[str, Any], Pass], Counter[str]]
"""Counts of a model of these fields: parameters "trained" and "frozen", and the bytes "kept" for
the way back, and whatever else adds up."""

CONTEXT_BYTES = 2**30
"""What CUDA, its libraries and the allocator's odds and ends take on a GPU: chosen, about that."""

SPARE = 0.9
"""Of a device's memory, what an update may be reckoned to take, with `CONTEXT_BYTES`. Chosen from
what an H200 measured (bench/results/gpu.md, ten rows; tests/updater/test_cli_doctor.py holds each
to it): a peak was reckoned at 0.92 (the whole Nano under LoRA) to 1.02 of the measured one. 0.92
would leave nothing for the allocator's holes; 0.9 leaves 2 %."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one device, part by part. `activations`: at the end of a forward pass, the weights
    that autocast casts among them; `recomputed`: of the one layer that is computed again on the way
    back; `logits`: of one piece of the loss; `gathered`: of shards, what is whole while a layer
    computes; `idle`: of a step, what is kept of experts that no token came to, at most;
    `accumulated`: gradients that are there in a step's later passes."""

    weights: int
    gradients: int
    optimizer: int
    anchor: int
    importance: int
    activations: int
    recomputed: int
    logits: int
    gathered: int = 0
    idle: int = 0
    accumulated: int = 0

    @property
    def least(self) -> int:
        """What is there at once, however short the texts are."""
        return self.weights + self.gradients + self.optimizer + self.anchor + self.importance

    @property
    def peak(self) -> int:
        """The most at any time: at the end of a step's last forward pass, or when the last gradient
        is there and all activations are gone but those of a layer that is computed again, or in the
        step after it."""
        held = self.weights + self.optimizer + self.anchor + self.importance
        always = held + self.gathered
        passing = self.accumulated + self.activations + max(self.logits, self.recomputed)
        return always + max(passing, self.gradients + max(self.recomputed, self.idle))


def footprint(
    fields: Mapping[str, Any],
    *,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
    frozen_dtype: torch.dtype = torch.float32,
    released_dtype: torch.dtype = torch.float32,
    kernels: bool = False,
) -> Footprint:
    """Of an update of the checkpoint with these fields by these settings, on each device.

    Args:
        fields: a config.json's.
        length: tokens of every example of a batch.
        frozen_dtype: of the weights that take no gradient.
        released_dtype: of the weights on the disk, in which they are held on to.
        kernels: Mamba-2 is mamba-ssm's fused one, which keeps less than PyTorch's operators do.
    """
    shards = training.num_processes if training.sharded else 1
    lora = training.adapt == "lora"
    with_factors = training.factors_on_experts
    num_tokens = training.share * length
    cut_dtype = frozen_dtype if lora else torch.float32
    precision = gathered_in(training, regularizer.method)
    pieces = expert_pieces(
        *(fields, replace(training, precision=precision), cut_dtype),
        num_tokens=num_tokens,
        every=with_factors,
    )
    cast = shards > 1 and precision == "bf16-mixed"
    training = replace(training.on_one_device, batch_size=training.share)
    dtypes = (frozen_dtype, anchor_dtype(regularizer, released_dtype))

    def measured(part: dict[str, Any], passed: Pass) -> Counter[str]:
        given = (json.dumps(part), of_a_pass(training), length, dtypes, passed)
        return Counter(_measured(*given, kernels=kernels, cast=cast))

    total = summed(fields, measured, checkpointed=training.activation_checkpointing, pieces=pieces)
    cut = 1 if lora else shards  # low-rank factors are whole in each process
    gradients = 4 * total["trained"] // cut
    anchor, importance = _held(total, regularizer, lora=lora, shards=shards)
    return Footprint(
        weights=4 * total["trained"] // cut + frozen_dtype.itemsize * total["frozen"] // shards,
        gradients=gradients,
        optimizer=8 * total["trained"] // cut,
        anchor=anchor,
        importance=importance,
        activations=total["kept"],
        recomputed=total["recomputed"],
        # The logits, their gradient, and the log-softmax between.
        logits=3 * min(4 * num_tokens * fields["vocab_size"], LOGITS_BYTES),
        gathered=gathered_bytes(total, cut_dtype, gradients=not lora)
        + pieces.bytes(gradients=not lora, factors=with_factors)
        if shards > 1
        else 0,
        idle=idle_bytes(fields, training, shards=shards),
        accumulated=(gradients + pieces.shard(shards, trained=not lora))
        if training.accumulate > 1
        else 0,
    )


def _held(
    total: Counter[str], regularizer: RegularizerSettings, *, lora: bool, shards: int
) -> tuple[int, int]:
    """Bytes of anchor and importance on each device."""
    if regularizer.method not in HOLD_WEIGHTS or regularizer.offload:
        return 0, 0
    # Under LoRA the base's own weights, which stay as they are; of several terms not.
    shares = lora and not _between_terms(regularizer)
    # Beside low-rank factors, which are whole in each process, a factored importance is too.
    cut = 1 if shares and regularizer.format == "factored" else shards
    anchor = 0 if shares else total["anchor"] // shards
    importance = total[f"importance, {regularizer.format}"]
    return anchor, 0 if regularizer.method == "l2" else importance // cut


def anchor_dtype(regularizer: RegularizerSettings, released: torch.dtype) -> torch.dtype:
    """Of the anchor of weights released in `released`: several terms are anchored at a mean, which
    is of no released digits."""
    return torch.float32 if _between_terms(regularizer) else released


def _between_terms(regularizer: RegularizerSettings) -> bool:
    return (regularizer.method, regularizer.terms) == ("ewc", "periods")


def of_a_pass(training: TrainingSettings) -> TrainingSettings:
    """The settings of one process, without what the ways of one diagnosis change and no pass heeds,
    or `Pass` has: ways that differ in these alone are measured once."""
    plain = TrainingSettings
    return replace(
        training,
        accumulate=plain.accumulate,
        activation_checkpointing=plain.activation_checkpointing,
        gather_gib=plain.gather_gib,
        strategy=plain.strategy,
    )


def anchor_bytes(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> list[int]:
    """Of the anchor of each of these weights, by their in-memory names, in `dtype`. They may be on
    the meta device."""
    return [
        weight.numel() * (4 if stays_float32(name) else dtype.itemsize)
        for name, weight in weights.items()
    ]


def importance_bytes(weights: Mapping[str, torch.Tensor], form: str) -> list[int]:
    """Of the importance of each of these weights in the format `form`. They may be on the meta
    device."""
    return [num_bytes({name: weight}) for name, weight in kept(weights, form).items()]


def idle_bytes(fields: Mapping[str, Any], training: TrainingSettings, *, shards: int = 1) -> int:
    """What `IdleExperts.step` keeps at a time, at most: of all experts but those that one token
    goes to, for all tokens may go to the same. Of a stack in shards a process may have idle ones
    alone."""
    if "E" not in (letters := pattern(fields, where="config.json")):
        return 0
    inner = fields.get("moe_latent_size") or fields["hidden_size"]
    width = fields["moe_intermediate_size"]
    if training.adapt == "lora":
        if not training.lora_experts:
            return 0
        sizes = [training.lora_rank * size for size in (inner, width)] * 2  # both factors of both
    else:
        sizes = [inner * width] * 2
    routed = fields["n_routed_experts"]
    idle = -(-routed // shards) if shards > 1 else routed - fields["num_experts_per_tok"]
    stacks = [3 * 4 * idle * size for size in sizes]  # the weight and both moments
    return min(max(KEPT_BYTES, *stacks), letters.count("E") * sum(stacks))


def summed(
    fields: Mapping[str, Any], measured: Measured, *, checkpointed: bool, pieces: ExpertPieces
) -> Counter[str]:
    """What the whole takes of what `measured` tells of some of its layers, where everything adds up
    over layers: one and two of each kind tell what one of it takes.

    Beside those, "recomputed": what is kept of the one layer, or of its experts in `pieces`, that
    is computed again at a time; and the parameters "ends", of embeddings and output head, and
    "largest", of a layer without such experts.
    """
    letters = pattern(fields, where="config.json")

    def told(layers: str, passed: Pass) -> Counter[str]:
        changed = {"hybrid_override_pattern": layers, "num_hidden_layers": len(layers)}
        return measured(dict(fields) | changed, passed)

    total: Counter[str] = Counter()
    largest = ends = recomputed = 0
    for kind in dict.fromkeys(letters):
        in_pieces = kind == "E" and pieces.apart > 0
        passed = Pass(checkpointed=checkpointed, in_pieces=in_pieces)
        alone, twice = (told(n * kind, passed) for n in (1, 2))
        twice.subtract(alone)
        if checkpointed or in_pieces:
            # What experts in pieces have on top is in the piece already.
            again = Pass(merged=in_pieces)
            whole = [told(n * kind, again)["kept"] for n in (1, 2)]
            # All tokens may go to the experts of one piece. What comes in and both gradients are
            # there for all pieces.
            more = 3 * pieces.pairs if in_pieces else 0
            kept_anyway = 0 if checkpointed else twice["kept"]
            recomputed = max(recomputed, whole[1] - whole[0] - kept_anyway + more)
        if not total:
            total.update(alone)
            total.subtract(twice)
            ends = total["trained"] + total["frozen"]
        here = twice["trained"] + twice["frozen"] - (pieces.apart if in_pieces else 0)
        largest = max(largest, here)
        for _ in range(letters.count(kind)):
            total.update(twice)
    total.update(largest=largest, ends=ends, recomputed=recomputed)
    return total


def cast_as_gathered(model: NemotronHForCausalLM) -> None:
    """The model, on the meta device, as its layers see it in shards under "bf16-mixed"; low-rank
    factors are not in shards."""
    for module in multiplied(model):
        for name, parameter in module.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.bfloat16()


@lru_cache(maxsize=1024)  # the ways of one diagnosis ask for the same layers again and again
def _measured(
    fields: str,
    training: TrainingSettings,
    length: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    passed: Pass,
    *,
    kernels: bool,
    cast: bool,
) -> Counter[str]:
    """Parameters trained and frozen; bytes of the anchor, the importance in each format, and what
    is kept. `fields`: of config.json, as JSON. `dtypes`: of what is frozen, of the anchor. `cast`:
    shards are gathered in bfloat16."""
    frozen_dtype, anchor_dtype = dtypes
    with ExitStack() as block:
        with torch.device("meta"):
            model = build(json.loads(fields))
            freeze(model, training)
            adaptation = Adaptation()
            if not passed.merged:
                adaptation = block.enter_context(adapted(model, training))
        block.enter_context(checkpointed(model, on=passed.checkpointed))
        found: Counter[str] = Counter()
        for name, parameter in model.named_parameters():
            found["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
            if not parameter.requires_grad and not stays_float32(name):
                parameter.data = parameter.data.to(frozen_dtype)
        held = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        if adaptation.factors:
            held = {name: adaptation.weights[name].detach() for name in adaptation.factors}
        found["anchor"] = sum(anchor_bytes(held, anchor_dtype))
        for form in FORMATS:
            found[f"importance, {form}"] = sum(importance_bytes(held, form))
        if cast:
            cast_as_gathered(model)
        found["kept"] = kept_bytes(
            model, training, length, kernels=kernels, in_pieces=passed.in_pieces
        )
    return found
