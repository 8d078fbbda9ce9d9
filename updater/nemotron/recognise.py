"""Which release a config.json is of, by its shape. No torch.

Called by `updater.nemotron.describe` and `updater.nemotron.quantised`.
"""

from collections.abc import Mapping
from typing import Any

from updater.nemotron.layout import MTP_PATTERN
from updater.nemotron.releases import RELEASES

# The name of each as NVIDIA publishes it, without the format of its weights.
_PUBLISHED = {
    "nemotron-3-nano-4b": "NVIDIA-Nemotron-3-Nano-4B",
    "nemotron-3-nano": "NVIDIA-Nemotron-3-Nano-30B-A3B",
    "nemotron-3-super": "NVIDIA-Nemotron-3-Super-120B-A12B",
    "nemotron-3-ultra": "NVIDIA-Nemotron-3-Ultra-550B-A55B",
}
_WITH_HEAD = {"nemotron-3-nano": "NVIDIA-Nemotron-3.5-Lightning-30B-A3B"}  # Nano's trunk


def release(fields: Mapping[str, Any]) -> str:
    """The release whose shape these fields of a config.json have, as `model.architecture` names
    it; "" where it is none's. What is not known of a release is not compared."""
    told = {"mtp_hybrid_override_pattern": MTP_PATTERN, **fields}
    for name, shape in RELEASES.items():
        if all(told.get(key) == value for key, value in shape.items()):
            return name
    return ""


def bf16_release(fields: Mapping[str, Any]) -> str:
    """NVIDIA's name of the release of that shape whose weights can be trained; "" where there is
    none of it."""
    name = release(fields)
    has_head = bool(fields.get("num_nextn_predict_layers"))
    published = (_WITH_HEAD if has_head else {}).get(name) or _PUBLISHED.get(name, "")
    return f"{published}-BF16" if published else ""
