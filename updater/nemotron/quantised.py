"""A quantised checkpoint is told as what it is, before anything else is asked of it.

As NVIDIA's ModelOpt writes one: `quantization_config` in config.json, hf_quant_config.json beside
it, weights in FP8, or two of NVFP4 in a byte (U8), and tensors of scales (`*.weight_scale`,
`*.weight_scale_2`, `*.input_scale`; `*.k_scale` and `*.v_scale` of an FP8 cache). No torch. Called
by `updater.nemotron.validate`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from updater.errors import InputError
from updater.nemotron.files import Entry
from updater.nemotron.recognise import bf16_release

CONFIG = "hf_quant_config.json"
_DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I8", "U8")
_SCALE = re.compile(r"_scale(_\w+)?$")


def refuse_told(folder: Path, config: Mapping[str, Any]) -> None:
    """No file beside the weights says that they are quantised.

    Raises:
        InputError: one does, or can't be read.
    """
    told = config.get("quantization_config")
    if told:
        _refuse(f"{folder / 'config.json'}: quantization_config says {_algorithm(told)}", config)
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        told = fields["quantization"]
        # Without one, nothing but a cache of keys and values is meant.
        quantises = bool(told.get("quant_algo"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path}: {type(error).__name__}: {error}"
        cure = "remove it, if the weights are not quantised"
        raise InputError(what, 'must be JSON with "quantization"', cure) from None
    if quantises:
        _refuse(f"{path}: says {_algorithm(told)}", config)


def refuse_tensors(folder: Path, config: Mapping[str, Any], entries: Mapping[str, Entry]) -> None:
    """None of the tensors is quantised, or a scale of one that is.

    Raises:
        InputError: some are.
    """
    found = [name for name, e in entries.items() if e.dtype in _DTYPES or _SCALE.search(name)]
    if found:
        first = entries[found[0]]
        _refuse(
            f"{folder / first.file}: {len(found)} tensors of quantised weights, the first is"
            f" {found[0]}, {first.dtype}",
            config,
        )


def _algorithm(told: object) -> str:
    if isinstance(told, Mapping):
        for key in ("quant_algo", "quant_method"):
            if told.get(key):
                return str(told[key])
    return "that weights are quantised"


def _refuse(what: str, config: Mapping[str, Any]) -> None:
    name = bf16_release(config)
    release = f"{name}, the BF16 release of this shape," if name else "the BF16 release of it"
    raise InputError(
        what,
        "an update trains weights in BF16, F16 or F32: quantised ones have no room for its steps",
        f"update {release} and quantise what `updater export` gives",
    )
