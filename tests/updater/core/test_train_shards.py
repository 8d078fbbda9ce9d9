"""What of a model in shards is gathered in bfloat16 under mixed precision, and what never is.

One process is its own world here; that two come to the weights of one, `test_launch_together.py`
shows.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from updater.errors import InputError
from updater.nemotron import checkpoint, kernel_inputs, kernels
from updater.settings import TrainingSettings
from updater.train.adapt import adapted, freeze
from updater.train.encode import collate, encode
from updater.train.likelihood import negative_log_likelihood
from updater.train.shards import arranged, reshard

LARGE = 2**40
EXACT = ("embeddings", "lm_head", "norm", "gate", "A_log", "D", "dt_bias", "conv1d", "out_proj")


def seen(model: nn.Module) -> dict[str, torch.dtype]:
    """The dtypes of weights as the modules that own them see them, filled by forward passes."""
    found: dict[str, torch.dtype] = {}

    def look(name: str) -> Any:
        def hook(module: nn.Module, _given: object, _out: object) -> None:
            for part, weight in module.named_parameters(recurse=False):
                found[f"{name}.{part}"] = weight.dtype

        return hook

    for name, module in model.named_modules():
        # Before FSDP's own hook, which lets go of the whole weights.
        module.register_forward_hook(look(name), prepend=True)
    return found


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_matrices_are_gathered_in_the_precision_that_they_are_multiplied_in(
    base: Path, language: Any, mesh: DeviceMesh, precision: str
) -> None:
    mixed = precision == "bf16-mixed"
    model, tokenizer = checkpoint.load(
        base, arranged=arranged(mesh, gather_bytes=LARGE, precision=precision)
    )
    found = seen(model)
    batch = collate(encode(tokenizer, language(0, 8), max_length_tokens=64), range(8))
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        sums_b, _ = negative_log_likelihood(model, batch)
    sums_b.sum().backward()
    small = {name for name, dtype in found.items() if dtype == torch.bfloat16}
    assert all(dtype in (torch.bfloat16, torch.float32) for dtype in found.values())
    if not mixed:
        assert not small
        return
    assert not [name for name in small if set(name.split(".")) & set(EXACT)]
    kinds = {name.rpartition("mixer.")[2] for name in small}
    assert kinds == {
        *("in_proj.weight", "experts.up_proj", "experts.down_proj"),
        *(f"shared_experts.{side}_proj.weight" for side in ("up", "down")),
        *(f"{side}_proj.weight" for side in ("q", "k", "v", "o", "up", "down")),
    }
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is None or parameter.grad.dtype == torch.float32, name


@pytest.mark.parametrize("adapt", ["full", "lora"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_rows_past_the_kernels_reach_are_taken_in_parts_where_that_is_alike_in_all_processes(
    base: Path, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch, precision: str, adapt: str
) -> None:
    """Each use of a projection that is gathered by itself is a collective, under LoRA too."""
    monkeypatch.setattr(kernels, "taken", lambda: frozenset(kernels.SCANS))
    model, _ = checkpoint.load(
        base, arranged=arranged(mesh, gather_bytes=LARGE, precision=precision)
    )
    training = TrainingSettings(adapt=adapt, precision=precision)
    freeze(model, training)
    tokens_bl = torch.arange(2, 42).view(4, 10)
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with cast:
        whole = model(input_ids=tokens_bl, use_cache=False).logits
    width = model.model.layers[0].mixer.in_proj.out_features
    monkeypatch.setattr(kernel_inputs, "ELEMENTS", 2 * 16 * width)  # two rows of one chunk
    reshard(model)
    with adapted(model, training), cast:
        if precision == "bf16-mixed":
            with pytest.raises(InputError, match="4 rows of 10 tokens in one of many processes"):
                model(input_ids=tokens_bl, use_cache=False)
        else:
            parts = model(input_ids=tokens_bl, use_cache=False).logits
            torch.testing.assert_close(parts, whole)
        reshard(model)


def kept(model: nn.Module, batch: Any) -> int:
    """Bytes that autograd keeps under autocast when all shards are shards again."""
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        negative_log_likelihood(model, batch)
    return sum(storage.nbytes() for storage in storages.values())


def test_no_copy_of_the_gathered_matrices_is_kept(
    base: Path, language: Any, mesh: DeviceMesh
) -> None:
    """Autocast's casts of float32 weights are kept for the way back: all of it in bfloat16."""
    sizes, matrices = [], 0
    for precision in ("32-true", "bf16-mixed"):
        model, tokenizer = checkpoint.load(
            base, arranged=arranged(mesh, gather_bytes=LARGE, precision=precision)
        )
        found = seen(model)
        batch = collate(encode(tokenizer, language(0, 2), max_length_tokens=64), range(2))
        sizes.append(kept(model.train(), batch))
        small = [name for name, dtype in found.items() if dtype == torch.bfloat16]
        matrices = sum(model.get_parameter(name).numel() for name in small)
    assert matrices
    assert sizes[0] - sizes[1] == pytest.approx(2 * matrices, rel=0.05)
