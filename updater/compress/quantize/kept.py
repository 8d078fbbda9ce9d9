"""Which weights are quantized, and which stay as they are.

Only the projections of the trunk's layers can be quantized: embeddings, head, norms, convolutions,
A_log, D, dt_bias, routers and the multi-token-prediction head never are, in any published recipe.
Of the projections `KEPT` stay too, and whatever is named beside. No torch. Called by
`updater.compress.quantize.write`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from updater.errors import InputError, did_you_mean
from updater.nemotron.layout import pattern, tensor_shapes
from updater.nemotron.packed import stem

_PROJECTION = re.compile(r"backbone\.layers\.(\d+)\.mixer\..*(_proj|_latent_proj)\.weight")
_EXPERT = re.compile(r"(.*\.mixer\.experts)\.\d+\..*")


@dataclass(frozen=True)
class Rule:
    """What stays, whose recipe says so, and whether a projection is meant: by the layers' letters,
    the number of its layer, and its name within the mixer."""

    what: str
    source: str
    holds: Callable[[str, int, str], bool]


KEPT = (
    Rule(
        "attention",
        "Nemotron 3 Nano's report, section 4: found the most sensitive; also hf_quant_config.json"
        " of NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4, and Super's FP8",
        lambda letters, layer, name: letters[layer] == "*",
    ),
    Rule(
        "the Mamba layers right before attention",
        "the same report and hf_quant_config.json: layers 4, 11, 18, 25, 32 and 41 of Nano",
        lambda letters, layer, name: letters[layer : layer + 2] == "M*",
    ),
    Rule(
        "latent projections",
        "Nemotron 3 Super's recipe for FP8: BF16, for every token of an expert goes through them",
        lambda letters, layer, name: name in ("fc1_latent_proj", "fc2_latent_proj"),
    ),
)
"""For every scheme. NVIDIA publishes nothing for whole numbers: there the choice is ours."""


@dataclass(frozen=True)
class Choice:
    """Weights by their released names: those to quantize with their shapes, in the order of the
    layers, and the modules of the projections that stay."""

    quantized: dict[str, tuple[int, int]]
    kept: tuple[str, ...]


def choose(fields: Mapping[str, Any], keep: Collection[str], *, where: str) -> Choice:
    """What of the checkpoint of this config.json is quantized.

    Args:
        keep: what else stays: modules by their released names, with * and ? as in file names
            (`backbone.layers.5?.*`).
        where: what an error message calls config.json.

    Raises:
        InputError: one of `keep` names no projection, or some experts of a layer without the
            others, which serving stacks run as one; or nothing is left to quantize.
    """
    letters = pattern(fields, where=where)
    shapes: dict[str, tuple[int, int]] = {}
    by_recipe = set()
    for name, shape in tensor_shapes(fields, where=where).items():
        found = _PROJECTION.fullmatch(name)
        if found is None:
            continue
        shapes[name] = (shape[0], shape[1])
        inside = stem(name).partition(".mixer.")[2]
        if any(rule.holds(letters, int(found[1]), inside) for rule in KEPT):
            by_recipe.add(name)
    asked = _asked(shapes, keep)
    chosen = {n: s for n, s in shapes.items() if n not in by_recipe and n not in asked}
    if not chosen:
        raise InputError(
            f"{where}: of {len(shapes)} projections all stay as they are",
            "at least one must be quantized",
            "keep fewer",
        )
    return Choice(chosen, tuple(stem(name) for name in shapes if name not in chosen))


def _asked(shapes: Mapping[str, tuple[int, int]], keep: Collection[str]) -> set[str]:
    found: set[str] = set()
    for wanted in keep:
        matching = {name for name in shapes if fnmatchcase(stem(name), wanted)}
        if not matching:
            raise InputError(
                f"keep {wanted!r}",
                "must name projections of the trunk's layers",
                did_you_mean(wanted, map(stem, shapes)) or "for example backbone.layers.0.*",
            )
        found |= matching
    experts: dict[str, set[bool]] = {}
    for name in shapes:
        expert = _EXPERT.fullmatch(name)
        if expert:
            experts.setdefault(expert[1], set()).add(name in found)
    for layer, told in experts.items():
        if len(told) > 1:
            raise InputError(
                f"keep: some of {layer}",
                "a layer's experts are quantized together or not at all",
                f"keep {layer}.*",
            )
    return found
