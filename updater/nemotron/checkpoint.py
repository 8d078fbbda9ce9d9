"""Checkpoint folders: made from nothing, checked, loaded, exported.

The folder is the contract: NVIDIA's config.json, a tokenizer, safetensors with the released
names. An export is the base's folder with other numbers in it: the same files, the same shards,
the same dtypes. transformers' own `save_pretrained` is not used, because it rewrites config.json
in a form that serving stacks do not read, and drops the MTP layers. Called by the steps of
`updater.pipeline` and by benchmarks.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHForCausalLM,
    NemotronHMamba2Mixer,
    NemotronHTopkRouter,
)

from updater.nemotron import files, kernels, presets
from updater.nemotron import tokenizer as tokenizers
from updater.nemotron.folders import copy_all_but_weights, renamed_when_whole
from updater.nemotron.grouped import follow_autocast
from updater.nemotron.incoming import round_inputs
from updater.nemotron.inputs import refuse_wrong_inputs
from updater.nemotron.kernel_inputs import meet_demands
from updater.nemotron.precise import route_in_float32
from updater.nemotron.reading import fill, input_scales
from updater.nemotron.saving import save_over, save_tensors
from updater.nemotron.scan import scan_in_float32
from updater.nemotron.validate import check
from updater.nemotron.weights import released, stays_float32

__all__ = [
    "build",
    "check",
    "create",
    "empty",
    "export",
    "export_tensors",
    "exported",
    "freeze_routers",
    "load",
    "random",
]

log = logging.getLogger("updater")

_SHARD_BYTES = 5_000_000_000  # about the size of a shard in NVIDIA's releases


def create(
    architecture: str,
    texts: Iterable[str],
    target: Path,
    *,
    vocabulary_size: int,
    tokenizer: str = "",
    seed: int,
) -> Path:
    """A checkpoint with random float32 weights stands at `target`, which is returned.

    The same arguments make the same bytes. A byte-level BPE is trained on `texts`, unless
    `tokenizer` names a folder with tokenizer.json, whose size is then the vocabulary's.
    `vocabulary_size` counts the special tokens and the 256 bytes; few texts give fewer entries.
    A checkpoint that stood at `target` is replaced. It has no multi-token-prediction head.

    Raises:
        InputError: an unknown architecture, no texts, or a tokenizer that cannot be used.
    """
    presets.config_fields(architecture, vocabulary_size)  # complain before the work
    with renamed_when_whole(Path(target)) as folder:
        if tokenizer:
            ids = tokenizers.copy(Path(tokenizer), folder)
        else:
            ids = tokenizers.train(texts, folder, vocabulary_size=vocabulary_size)
        fields = presets.config_fields(architecture, ids["vocab_size"]) | ids
        fields["torch_dtype"] = "float32"
        if fields.get("num_nextn_predict_layers"):
            fields["num_nextn_predict_layers"] = 0
            log.warning(
                "%s describes a multi-token-prediction head: none is made from scratch, and the "
                "new checkpoint's config.json speaks of none",
                architecture,
            )
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            model = build(fields)
        tokenizers.write_json(folder / "config.json", fields)
        special = {key: value for key, value in ids.items() if key != "vocab_size"}
        tokenizers.write_json(folder / "generation_config.json", special)
        _write_shards(dict(released(model)), folder)
    return Path(target)


Arranged = Callable[[NemotronHForCausalLM], object]


def load(
    folder: Path,
    *,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    arranged: Arranged | None = None,
    quantized: bool = False,
) -> tuple[NemotronHForCausalLM, PreTrainedTokenizerFast]:
    """The checkpoint in memory, in evaluation mode, computing what the released model computes.

    Weights are cast to `dtype`, but the router, its correction bias, A_log, D and dt_bias stay
    float32. `device` None is the GPU where there is one. No network, no code from the folder, no
    pickle. mtp.* tensors are left on disk. `arranged` is called before there is memory for any
    weight: it may cut them into shards, and then each process reads its own rows alone.
    `quantized`: weights that are become what they stand for, and where there are scales of inputs
    those are rounded as they are served. For a model that is asked: one that is trained would learn
    from numbers that its lineage never had.

    Raises:
        InputError: as `check`.
    """
    folder = Path(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    contents = check(folder, quantized=quantized)
    model = empty(contents.config, device=device, dtype=dtype, arranged=arranged)
    fill(model.state_dict(), folder, contents, device=device)
    if scales := input_scales(folder, contents, device=device):
        round_inputs(model, scales)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizers.read(folder)


def empty(
    fields: dict[str, Any],
    *,
    device: str,
    dtype: torch.dtype,
    arranged: Arranged | None = None,
) -> NemotronHForCausalLM:
    """The model of a config.json's fields, with memory for its weights and no values in them yet.
    Weights are of `dtype`, but for those that `load` keeps float32. `arranged`: as of `load`."""
    with torch.device("meta"):
        model = build(fields)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        tensor.data = tensor.data.to(torch.float32 if stays_float32(name) else dtype)
    if arranged is not None:
        arranged(model)
    return model.to_empty(device=device)


def random(
    fields: dict[str, Any], *, device: str, dtype: torch.dtype, seed: int = 0
) -> NemotronHForCausalLM:
    """The same with random weights, made on the device: for clocks, which need no checkpoint.
    Norms are ones and matrices small, so that numbers stay of the size of real ones; none is so
    small that a CPU would take its slow way."""
    model = empty(fields, device=device, dtype=dtype)
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            model._init_weights(module)
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, model.config.initializer_range)
            elif name.endswith(("norm.weight", "norm_f.weight")):
                parameter.fill_(1)
    return model


def export(model: NemotronHForCausalLM, base: Path, target: Path) -> Path:
    """`target` is the folder `base` with the weights of `model` in it, and is returned: as
    `export_tensors` of them."""
    return export_tensors(dict(released(model)), base, target)


def export_tensors(tensors: Mapping[str, torch.Tensor], base: Path, target: Path) -> Path:
    """`target` is the folder `base` with these whole tensors of a model, or of a part of it, by
    their released names, in it, and is returned.

    Every file that holds no weights is the base's, byte for byte; pickles stay behind. Tensors
    keep their released names, shards, order and dtypes (float32 routers stay float32), and those
    that are not given (mtp.*, where no head is attached) are the base's. The same tensors and base
    make the same bytes. Each tensor is asked for once, in the order of `exported`, and let go of
    before the next. What stood at `target` is replaced, and until it is whole it is not there.

    Raises:
        InputError: `base` is not a whole checkpoint of the model's shape.
        OSError: the disk refuses.
    """
    base = Path(base)
    contents = check(base)
    with renamed_when_whole(Path(target)) as folder:
        copy_all_but_weights(base, contents, folder)
        for name in contents.headers:
            save_over(tensors, base / name, folder / name)
    return Path(target)


def exported(names: Collection[str], base: Path) -> Iterator[str]:
    """Those of the names that `export_tensors` asks for, in its order.

    Raises:
        InputError: as `check`.
    """
    for header in check(base).headers.values():
        yield from (name for name in header.entries if name in names)


def freeze_routers(model: NemotronHForCausalLM) -> None:
    """The routers' weights take no gradient: an update does not change which expert a token goes
    to, but through the hidden states. (Their correction bias is a buffer and never trained.)"""
    for module in model.modules():
        if isinstance(module, NemotronHTopkRouter):
            module.weight.requires_grad_(False)


def build(fields: dict[str, Any]) -> NemotronHForCausalLM:
    """The model of a config.json's fields, of random weights, computing what the released model
    computes: what transformers gets wrong is mended here."""
    kernels.announce()
    if not kernels.are_fused():
        scan_in_float32()
    model = NemotronHForCausalLM(presets.transformers_config(fields))
    follow_autocast(model)
    route_in_float32(model)
    refuse_wrong_inputs(model)
    meet_demands(model)
    for module in model.modules():
        if isinstance(module, NemotronHMamba2Mixer):
            # transformers 5.23 clamps at time_step_min where the reference uses time_step_limit
            # (huggingface/transformers#48989: KL 0.034 against the reference, 0.003 so mended).
            low, high = model.config.time_step_limit
            module.time_step_limit = (low, high)
    return model


def _write_shards(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor.contiguous()
        filled += tensor.nbytes
    if len(shards) == 1:
        save_tensors(shards[0], folder / files.SINGLE, {"format": "pt"})
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_tensors(shard, folder / file, {"format": "pt"})
        where |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    tokenizers.write_json(folder / files.INDEX, index)
