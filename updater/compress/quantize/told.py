"""What config.json, and for NVIDIA's forms hf_quant_config.json, say of quantized weights.

The first is what vLLM, SGLang and transformers read; the second is an older place of the same,
which ModelOpt still writes. No torch. Called by `updater.compress.quantize.write`.
"""

import re
from collections.abc import Mapping
from typing import Any

from updater.compress.quantize.kept import Choice
from updater.nemotron.layout import pattern
from updater.nemotron.packed import BITS, BLOCK

_EXPERT = re.compile(r"(.*\.mixer\.experts)\.\d+\..*")
_PRODUCER = {"name": "updater"}
_ALGORITHMS = {("fp8", True): "FP8", ("nvfp4", True): "NVFP4", ("nvfp4", False): "W4A16_NVFP4"}
"""ModelOpt's names, by scheme and whether inputs are quantized too."""


def unquantized(fields: Mapping[str, Any], choice: Choice, *, where: str) -> list[str]:
    """Every module that a serving stack might take for a quantized one, by its released name. One
    that ends in * stands for all in it: a layer's experts, the multi-token-prediction head."""
    letters = pattern(fields, where=where)
    kept = [_EXPERT.sub(r"\1*", name) for name in choice.kept]
    convolutions = [
        f"backbone.layers.{i}.mixer.conv1d" for i, letter in enumerate(letters) if letter == "M"
    ]
    routers = [
        f"backbone.layers.{i}.mixer.gate" for i, letter in enumerate(letters) if letter == "E"
    ]
    ends = ["lm_head", "backbone.embeddings", "mtp*"]
    return list(dict.fromkeys([*ends, *kept, *convolutions, *routers]))


def compressed_tensors(scheme: str, group: int, names: list[str]) -> dict[str, Any]:
    """`quantization_config` of int8 and int4: compressed-tensors' pack-quantized, weights alone.

    Modules that stay are told by regular expressions on the end of their names: vLLM and
    transformers call the trunk `model.`, and only vLLM would translate a plain name.
    """
    weights = {
        "num_bits": BITS[scheme],
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": group,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": [_expression(name) for name in names],
    }


def model_opt(scheme: str, inputs: bool, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`quantization_config` and hf_quant_config.json of fp8 and nvfp4, as ModelOpt writes them. The
    cache of keys and values is left as it is."""
    algorithm = _ALGORITHMS[scheme, inputs]
    size = {} if scheme == "fp8" else {"group_size": BLOCK}
    numbers = {"dynamic": False, "num_bits": 8 if scheme == "fp8" else 4, "type": "float", **size}
    group: dict[str, Any] = {"weights": numbers, "targets": ["Linear"]}
    if inputs:
        group["input_activations"] = numbers
    told = {
        "quant_method": "modelopt",
        "quant_algo": algorithm,
        "config_groups": {"group_0": group},
        "ignore": names,
        "producer": _PRODUCER,
        **size,
    }
    # vLLM asks for these of NVFP4, be they null.
    fields = {"quant_algo": algorithm, "kv_cache_quant_algo": None, **size}
    beside = {"producer": _PRODUCER, "quantization": fields | {"exclude_modules": names}}
    return told, beside


def _expression(name: str) -> str:
    # Not "\.": vLLM replaces what looks like ".q_proj" in these, too.
    inside = name.removeprefix("backbone.").replace(".", "[.]")
    if inside.endswith("*"):
        inside = inside.removesuffix("*") + "[.].*"
    return f"re:(.*[.])?{inside}$"
