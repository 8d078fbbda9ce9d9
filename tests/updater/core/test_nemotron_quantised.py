"""A quantised release is told as what it is, by each sign of it alone, with the one that is needed.

Laid out as NVIDIA's ModelOpt writes FP8 and NVFP4: scales beside each quantised weight and of the
cache, NVFP4 packed two to a byte, quantization_config in config.json, hf_quant_config.json.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from updater.errors import InputError
from updater.nemotron import files, presets
from updater.nemotron.checkpoint import check
from updater.nemotron.quantised import CONFIG
from updater.nemotron.recognise import bf16_release

Tensors = dict[str, torch.Tensor]


def fp8(name: str, weight: torch.Tensor) -> Tensors:
    stem = name.removesuffix(".weight")
    return {
        name: weight.to(torch.float8_e4m3fn),
        f"{stem}.weight_scale": torch.ones(()),
        f"{stem}.input_scale": torch.ones(()),
    }


def nvfp4(name: str, weight: torch.Tensor) -> Tensors:
    stem, (rows, columns) = name.removesuffix(".weight"), weight.shape
    return {
        name: torch.zeros(rows, columns // 2, dtype=torch.uint8),
        f"{stem}.weight_scale": torch.ones(rows, columns // 16).to(torch.float8_e4m3fn),
        f"{stem}.weight_scale_2": torch.ones(()),
        f"{stem}.input_scale": torch.ones(()),
    }


def packed(name: str, weight: torch.Tensor) -> Tensors:
    """Without a scale: its shape and its dtype are what is left to go by."""
    return {name: nvfp4(name, weight)[name]}


def cache_scales(name: str, weight: torch.Tensor) -> Tensors:
    """Nothing but the cache of keys and values is FP8."""
    kind = name.split(".")[-2][0]
    return {name: weight, f"{name.removesuffix('.weight')}.{kind}_scale": torch.ones(())}


def algorithm(name: str) -> dict[str, Any]:
    return {"quant_algo": name, "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}


@pytest.fixture
def quantised(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """`quantised(how, what)`: the base with each weight of whose name `what` is a part as `how`
    makes it; `told`: what config.json says of it, `beside`: what hf_quant_config.json does."""

    def make(
        how: Callable[[str, torch.Tensor], Tensors] | None = None,
        what: tuple[str, ...] = ("_proj.weight",),
        *,
        told: Any = None,
        beside: Any = None,
    ) -> Path:
        folder = tmp_path / "release"
        shutil.copytree(base, folder)
        if how is not None:
            tensors: Tensors = {}
            for name, tensor in load_file(folder / files.SINGLE).items():
                chosen = any(part in name for part in what)
                tensors |= how(name, tensor) if chosen else {name: tensor}
            save_file(tensors, folder / files.SINGLE, {"format": "pt"})
        if told is not None:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"quantization_config": told}))
        if beside is not None:
            (folder / CONFIG).write_text(json.dumps(beside))
        return folder

    return make


@pytest.mark.parametrize(("how", "name"), [(fp8, "FP8"), (nvfp4, "NVFP4")])
def test_a_whole_release_is_told_by_its_algorithm(how: Any, name: str, quantised: Any) -> None:
    told = {"quant_method": "modelopt", **algorithm(name)}
    beside = {"producer": {"name": "modelopt"}, "quantization": algorithm(name)}
    folder = quantised(how, told=told, beside=beside)
    with pytest.raises(InputError, match=rf"says {name}\. .* the BF16 release of it") as error:
        check(folder)
    assert "whole checkpoint" not in str(error.value)


@pytest.mark.parametrize(
    ("how", "what", "message"),
    [
        (fp8, ("in_proj.weight",), "in_proj.*BF16 release"),
        (nvfp4, (".experts.",), "tensors of quantised weights, the first is .*experts.*BF16"),
        (packed, (".experts.",), r"24 tensors of .*experts\.0\..*_proj\.weight, U8.*BF16"),
        (cache_scales, ("k_proj.", "v_proj."), "2 tensors of .*[kv]_scale, F32.*BF16"),
    ],
)
def test_the_tensors_alone_tell(how: Any, what: Any, message: str, quantised: Any) -> None:
    with pytest.raises(InputError, match=message):
        check(quantised(how, what))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"told": {"quant_method": "fp8"}}, r"config\.json: quantization_config says fp8"),
        ({"told": {"bits": 4}}, "says that weights are quantised"),
        ({"beside": {"quantization": algorithm("NVFP4")}}, rf"{CONFIG}: says NVFP4.*BF16"),
        ({"beside": ["?"]}, f'{CONFIG}: TypeError: .*must be JSON with "quantization"'),
    ],
    ids=str,
)
def test_what_lies_beside_alone_tells(given: Any, message: str, quantised: Any) -> None:
    with pytest.raises(InputError, match=message):
        check(quantised(**given))


def test_a_quantised_cache_alone_is_no_quantised_weight(quantised: Any) -> None:
    beside = {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}
    assert check(quantised(told={}, beside=beside)).entries


@pytest.mark.parametrize(
    ("name", "head", "release"),
    [
        ("nemotron-3-nano-4b", {}, "NVIDIA-Nemotron-3-Nano-4B-BF16"),
        ("nemotron-3-nano", {}, "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
        (
            "nemotron-3-nano",
            {"num_nextn_predict_layers": 1},
            "NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16",
        ),
        ("nemotron-3-super", {}, "NVIDIA-Nemotron-3-Super-120B-A12B-BF16"),
        ("nemotron-3-ultra", {}, "NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16"),
        ("nemotron-3-tiny", {}, ""),
    ],
)
def test_the_release_that_is_needed_is_named(name: str, head: Any, release: str) -> None:
    assert bf16_release(presets.config_fields(name, 131_072) | head) == release
